import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { decodeDeviceState, encodeDeviceState, type StateValue } from './state-codec.ts';

const encode = (tree: StateValue) => encodeDeviceState({ guestNowMs: 1.5, guestEpochMs: 1e12, tree });
const decode = (bytes: Uint8Array) => decodeDeviceState(bytes).tree;

/** A state with the checksum a sender who means harm would give it. */
function forge(json: string, arrayBytes: Uint8Array = new Uint8Array(0)): Uint8Array {
  const tree = Buffer.from(json);
  const bytes = Buffer.concat([encode(null).subarray(0, 64), tree, arrayBytes]);
  bytes.writeUint32LE(tree.length, 24);
  bytes.writeUint32LE(arrayBytes.length, 28);
  return sign(bytes);
}

function sign(bytes: Buffer): Uint8Array {
  const sum = createHash('sha256').update(bytes.subarray(0, 32)).update(bytes.subarray(64)).digest();
  bytes.set(sum, 32);
  return bytes;
}

describe('encodeDeviceState()', () => {
  test('writes the header that the file describes', () => {
    const bytes = Buffer.from(encode([1, Uint8Array.of(7)]));
    const tree = '[1,{"a":"Uint8Array","n":1,"r":[0,1]}]';
    assert.equal(
      bytes.subarray(0, 32).toString('hex'),
      '5638364401000000000000000000f83f000000a2941a6d42' + '2600000001000000',
    );
    assert.equal(bytes.subarray(64).toString(), `${tree}\x07`);
  });

  test('leaves out what is zero', () => {
    const array = new Uint8Array(1024 * 1024);
    array[5000] = 1;
    assert.ok(encode(array).length < 200);
    assert.deepEqual(decode(encode(array)), array);
  });
});

describe('decodeDeviceState()', () => {
  const trees: StateValue[] = [
    null,
    [true, false, 0, -1, 0.1, 1e300, 'ide0', [], [[null]]],
    [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN],
    [
      new Uint8Array(0),
      new Uint8Array(63),
      new Uint8Array(64),
      Uint8Array.from({ length: 200 }, (_, i) => i & 1),
    ],
    [
      Int32Array.of(-1, 0, 1),
      Float64Array.of(Math.PI, Number.NaN),
      Uint16Array.of(1, 65535),
      Int8Array.of(-128),
    ],
    [
      Float32Array.of(0.5),
      Uint32Array.of(0xffffffff),
      Int16Array.of(-1),
      new Uint8Array(4096).fill(1, 100, 101),
    ],
  ];
  for (const [index, tree] of trees.entries()) {
    test(`gives back tree ${index}`, () => {
      assert.deepEqual(decodeDeviceState(encode(tree)), { guestNowMs: 1.5, guestEpochMs: 1e12, tree });
    });
  }

  test('takes bytes that begin anywhere in their buffer', () => {
    const bytes = Buffer.concat([Buffer.alloc(3), encode([Float64Array.of(2)])]);
    assert.deepEqual(decode(bytes.subarray(3)), [Float64Array.of(2)]);
  });

  test('refuses every cut, and every changed byte', () => {
    const bytes = encode([1, Uint8Array.of(1, 2, 3), 'x']);
    for (let at = 0; at < bytes.length; at++) {
      assert.throws(() => decode(bytes.subarray(0, at)), {
        name: 'DeviceStateError',
        message: /^Cannot load device state: /,
      });
      const damaged = bytes.slice();
      damaged[at]! ^= 1;
      assert.throws(() => decode(damaged), {
        name: 'DeviceStateError',
        message: /^Cannot load device state: /,
      });
    }
  });

  for (const [what, json, arrayBytes, message] of [
    ['a tree that is not JSON', '[1', 0, /not JSON/],
    ['an unknown array', '{"a":"Object","n":1,"r":[]}', 0, /unknown array/],
    ['an array of the prototype', '{"a":"constructor","n":1,"r":[]}', 0, /unknown array/],
    ['an array that is too long', '{"a":"Uint8Array","n":1000000000,"r":[]}', 0, /exceed/],
    [
      'arrays that are too long together',
      `[${'{"a":"Uint8Array","n":100000000,"r":[]},'.repeat(2)}{"a":"Uint8Array","n":100000000,"r":[]}]`,
      0,
      /exceed/,
    ],
    ['a length that is no length', '{"a":"Uint8Array","n":-1,"r":[]}', 0, /of -1 bytes/],
    ['a length with half an element', '{"a":"Int32Array","n":6,"r":[]}', 0, /Int32Array of 6 bytes/],
    ['a run outside its array', '{"a":"Uint8Array","n":4,"r":[2,4]}', 4, /outside its array/],
    ['a run without a length', '{"a":"Uint8Array","n":4,"r":[0]}', 4, /outside its array/],
    ['a run beyond the bytes', '{"a":"Uint8Array","n":4,"r":[0,4]}', 3, /cut short/],
    ['bytes of no array', '[]', 1, /belong to no array/],
    ['an unknown number', '{"f":"1e5"}', 0, /unknown number/],
    ['deep nesting', `${'['.repeat(1000)}${']'.repeat(1000)}`, 0, /nested deeper/],
  ] as const) {
    test(`refuses ${what}`, () => {
      assert.throws(() => decode(forge(json, new Uint8Array(arrayBytes))), {
        name: 'DeviceStateError',
        message,
      });
    });
  }

  test('refuses what cannot even be written as a text', () => {
    for (const json of [
      '{"a":"Uint8Array","n":{"toString":1},"r":[]}',
      '{"a":"Uint8Array","n":8,"r":[{"toString":1},[]]}',
      '{"f":{"toString":1}}',
    ]) {
      assert.throws(() => decode(forge(json)), {
        name: 'DeviceStateError',
        message: /^Cannot load device state: [ -~]+$/,
      });
    }
  });

  test('refuses a guest time out of range', () => {
    const bytes = Buffer.from(encode(null));
    bytes.writeDoubleLE(-1, 8);
    assert.throws(() => decode(sign(bytes)), { message: /guest time -1 ms/ });
    bytes.writeDoubleLE(Number.NaN, 8);
    assert.throws(() => decode(sign(bytes)), { message: /guest time NaN ms/ });
  });
});

test('any tree comes back, and no part of it does, nor one with a changed bit', () => {
  const array = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.int32Array(),
    fc.float64Array(),
    fc.uint16Array(),
    // Mostly zeros, so that runs are left out.
    fc.array(fc.tuple(fc.nat(1999), fc.nat(255)), { maxLength: 4 }).map((set) => {
      const sparse = new Uint8Array(2000);
      for (const [at, value] of set) sparse[at] = value;
      return sparse;
    }),
  );
  const { tree } = fc.letrec<{ tree: StateValue }>((tie) => ({
    tree: fc.oneof(
      { maxDepth: 3 },
      fc.oneof(fc.double(), fc.boolean(), fc.string(), fc.constant(null), array),
      fc.array(tie('tree'), { maxLength: 4 }),
    ),
  }));
  fc.assert(
    fc.property(tree, fc.nat(), fc.nat(7), (value, seed, bit) => {
      const bytes = encode(value);
      assert.deepEqual(decode(bytes), value);
      const at = seed % bytes.length;
      assert.throws(() => decode(bytes.subarray(0, at)), { name: 'DeviceStateError' });
      bytes[at]! ^= 1 << bit;
      assert.throws(() => decode(bytes), { name: 'DeviceStateError' });
    }),
  );
});
