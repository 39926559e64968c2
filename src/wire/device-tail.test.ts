import assert from 'node:assert/strict';
import { test } from 'node:test';
import { writeDeviceSection } from './device-sections.ts';
import { DeviceTailCollector } from './device-tail.ts';
import { decodeVmDescription, walkDeviceSections } from './device-walk.ts';
import { concatenate, fromHex } from './example-stream.ts';

const AT = 1000;

function section(sectionId: number, idstr: string, body: Uint8Array): Uint8Array {
  return writeDeviceSection({ sectionId, idstr, instanceId: 0, versionId: 2, body });
}

/** What QEMU would write of sections with one field each. */
function describe(...devices: readonly [idstr: string, bodyBytes: number][]): Uint8Array {
  const json = JSON.stringify({
    page_size: 4096,
    devices: devices.map(([name, size]) => ({ name, instance_id: 0, fields: [{ name: 'data', size }] })),
  });
  return record(json);
}

function record(json: string): Uint8Array {
  const bytes = Buffer.from(json);
  const header = Buffer.alloc(6);
  header[1] = 6;
  header.writeUInt32BE(bytes.length, 2);
  return concatenate(header, bytes);
}

const SECTIONS = concatenate(
  section(3, 'timer', fromHex('0102 03')),
  section(9, 'cpu', fromHex('7e 00000009 0006')),
);
const DESCRIPTION = describe(['timer', 3], ['cpu', 7]);
const WHOLE = concatenate(SECTIONS, DESCRIPTION);
const DEVICES = [
  { sectionId: 3, idstr: 'timer', instanceId: 0, versionId: 2, bodyBytes: 3, at: AT, bodyAt: AT + 19 },
  { sectionId: 9, idstr: 'cpu', instanceId: 0, versionId: 2, bodyBytes: 7, at: AT + 27, bodyAt: AT + 44 },
];

function assertWhole(tail: ReturnType<DeviceTailCollector['push']>): void {
  assert(tail !== null);
  assert.deepEqual(Uint8Array.from(tail.deviceSections), SECTIONS);
  assert.equal(tail.eofAt, AT + SECTIONS.length);
  assert.deepEqual(Uint8Array.from(tail.vmDescription!), DESCRIPTION.subarray(6));
  assert.deepEqual(tail.devices, DEVICES);
}

test('DeviceTailCollector sees the end without being told, wherever the tail is cut', () => {
  for (let cut = 0; cut <= WHOLE.length; cut++) {
    const collector = new DeviceTailCollector(AT);
    const first = collector.push(WHOLE.subarray(0, cut));
    if (cut < WHOLE.length) assert.equal(first, null);
    assertWhole(first ?? collector.push(WHOLE.subarray(cut)));
    assertWhole(collector.settle());
  }
});

test('DeviceTailCollector sees the end when every byte comes alone', () => {
  const collector = new DeviceTailCollector(AT);
  const answers = [...WHOLE].map((byte) => collector.push(Uint8Array.of(byte)));
  assertWhole(answers.pop()!);
  assert(answers.every((tail) => tail === null));
});

test('DeviceTailCollector knows a description by what it is, and not by its first property', () => {
  const newer = JSON.stringify({
    configuration: { vmsd_name: 'configuration' },
    ...JSON.parse(Buffer.from(DESCRIPTION.subarray(6)).toString()),
  });
  const collector = new DeviceTailCollector(AT);
  assert.deepEqual(collector.push(concatenate(SECTIONS, record(newer)))?.devices, DEVICES);
});

test('DeviceTailCollector looks at each byte a limited number of times', () => {
  const collector = new DeviceTailCollector(AT);
  const large = section(3, 'vga', new Uint8Array(3_000_000));
  for (let position = 0; position < large.length; position += 7) {
    assert.equal(collector.push(large.subarray(position, position + 7)), null);
  }
  assert(collector.push(describe(['vga', 3_000_000]))?.devices !== undefined);
});

test('DeviceTailCollector is not taken in by a description that a guest has put into a device', () => {
  const forged = describe(['fifo', 12]);
  const body = concatenate(fromHex('aabb'), forged, fromHex('cc'));
  const whole = concatenate(section(3, 'fifo', body), describe(['fifo', body.length]));
  const collector = new DeviceTailCollector(AT);
  // The piece ends exactly where the forged description does.
  const cut = 18 + 2 + forged.length;
  assert.equal(collector.push(whole.subarray(0, cut)), null);
  const tail = collector.push(whole.subarray(cut));
  assert.equal(tail?.devices?.length, 1);
  assert.equal(tail?.eofAt, AT + whole.length - describe(['fifo', body.length]).length);
});

test('DeviceTailCollector finds the description however many a guest has put into a device', () => {
  for (const forged of ['00 06 00000002 7b22', '00 06 03000000 7b22']) {
    const body = concatenate(...Array.from({ length: 1000 }, () => fromHex(forged)));
    const whole = concatenate(section(3, 'fifo', body), describe(['fifo', body.length]));
    const atOnce = new DeviceTailCollector(AT);
    assert.equal(atOnce.push(whole)?.devices?.length, 1);
    const inPieces = new DeviceTailCollector(AT);
    for (let position = 0; position + 13 < whole.length; position += 13) {
      assert.equal(inPieces.push(whole.subarray(position, position + 13)), null);
    }
    assert.equal(
      inPieces.push(whole.subarray(whole.length - ((whole.length - 1) % 13) - 1))?.devices?.length,
      1,
    );
  }
});

test('DeviceTailCollector.settle() takes a tail without a description, or with one that does not fit', () => {
  const without = new DeviceTailCollector(AT);
  assert.equal(without.push(concatenate(SECTIONS, fromHex('00'))), null);
  const tail = without.settle();
  assert.deepEqual(Uint8Array.from(tail.deviceSections), SECTIONS);
  assert.equal(tail.eofAt, AT + SECTIONS.length);
  assert.equal(tail.vmDescription, undefined);

  const other = new DeviceTailCollector(AT);
  assert.equal(other.push(concatenate(SECTIONS, describe(['timer', 4], ['cpu', 7]))), null);
  assert.deepEqual(Uint8Array.from(other.settle().deviceSections), SECTIONS);
  assert.equal(other.settle().devices, undefined);
  assert.notEqual(other.settle().vmDescription, undefined);
});

test('DeviceTailCollector.settle() says where a tail is cut, or goes on too long', () => {
  const settled = (bytes: Uint8Array) => {
    const collector = new DeviceTailCollector(AT);
    collector.push(bytes);
    return () => collector.settle();
  };
  assert.throws(settled(SECTIONS.subarray(0, 30)), { code: 'TRUNCATED', at: AT + 30 });
  assert.throws(settled(new Uint8Array(0)), { code: 'TRUNCATED', at: AT });
  assert.throws(settled(WHOLE.subarray(0, -4)), { code: 'TRUNCATED', message: /4 bytes before its end/ });
  const damaged = WHOLE.slice();
  damaged[WHOLE.length - 3] = 0;
  const description = AT + SECTIONS.length + 6;
  assert.throws(settled(damaged), { code: 'BAD_VALUE', at: description });
  assert.throws(settled(concatenate(WHOLE, fromHex('00'))), { code: 'BAD_LENGTH', at: AT + WHOLE.length });
});

test('DeviceTailCollector refuses a tail that is too long', () => {
  const collector = new DeviceTailCollector(AT, { maxBytes: 100_000 });
  collector.push(new Uint8Array(99_999));
  assert.throws(() => collector.push(new Uint8Array(2)), { code: 'LIMIT', at: AT + 100_000 });
});

test('decodeVmDescription() adds up fields, arrays and subsections', () => {
  const json = JSON.stringify({
    page_size: 4096,
    devices: [
      {
        name: 'pci',
        instance_id: 7,
        fields: [
          { name: 'a', size: 3 },
          { name: 'b', size: 4, array_len: 5 },
          { name: 's', type: 'struct', struct: { fields: [{ name: 'x', size: 99 }] }, size: 8 },
        ],
        subsections: [{ vmsd_name: 'pci/more', version: 1, fields: [{ name: 'y', size: 2 }] }],
      },
    ],
  });
  assert.deepEqual(decodeVmDescription(Buffer.from(json)), [
    { idstr: 'pci', instanceId: 7, bodyBytes: 3 + 20 + 8 + (1 + 1 + 8 + 4 + 2) },
  ]);
});

for (const { what, json } of [
  { what: 'what is no JSON', json: '{"page_size"' },
  { what: 'a list', json: '[]' },
  { what: 'a device without a name', json: '{"devices":[{"instance_id":0}]}' },
  { what: 'an instance id that is no number', json: '{"devices":[{"name":"a","instance_id":"0"}]}' },
  { what: 'a negative size', json: '{"devices":[{"name":"a","instance_id":0,"fields":[{"size":-1}]}]}' },
  {
    what: 'sizes beyond 2^53',
    json: '{"devices":[{"name":"a","instance_id":0,"fields":[{"size":9e15,"array_len":9}]}]}',
  },
]) {
  test(`decodeVmDescription() refuses ${what}`, () => {
    assert.throws(() => decodeVmDescription(Buffer.from(json), 5), { code: 'BAD_VALUE', at: 5 });
  });
}

const TIMER = { idstr: 'timer', instanceId: 0, bodyBytes: 3 };
const CPU = { idstr: 'cpu', instanceId: 0, bodyBytes: 7 };

for (const { what, described, code, at } of [
  { what: 'another name', described: [{ ...TIMER, idstr: 'clock' }, CPU], code: 'BAD_SECTION', at: 0 },
  { what: 'another instance', described: [{ ...TIMER, instanceId: 1 }, CPU], code: 'BAD_SECTION', at: 0 },
  { what: 'a shorter body', described: [{ ...TIMER, bodyBytes: 2 }, CPU], code: 'BAD_FOOTER', at: 21 },
  { what: 'a longer body', described: [{ ...TIMER, bodyBytes: 99 }, CPU], code: 'BAD_LENGTH', at: 0 },
  { what: 'fewer sections', described: [TIMER], code: 'BAD_LENGTH', at: 27 },
  { what: 'more sections', described: [TIMER, CPU, CPU], code: 'BAD_LENGTH', at: SECTIONS.length },
]) {
  test(`walkDeviceSections() refuses sections of which the description tells ${what}`, () => {
    assert.throws(() => walkDeviceSections(SECTIONS, described, AT), { code, at: AT + at });
  });
}
