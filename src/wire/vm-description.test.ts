import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GLOBAL_STATE_FIELDS, lengthPrefixedFields } from './device-sections.ts';
import { deviceSections, fromHex } from './example-stream.ts';
import { encodeVmDescription } from './vm-description.ts';

function decodeJson(record: Uint8Array): string {
  assert.equal(record[0], 0x06);
  const lengthBytes = new DataView(record.buffer, record.byteOffset).getUint32(1);
  assert.equal(lengthBytes, record.length - 5);
  return Buffer.from(record.subarray(5)).toString('latin1');
}

test('encodeVmDescription() writes type, length and JSON', () => {
  assert.deepEqual(
    encodeVmDescription(4096, []),
    fromHex('06 0000001f 7b22706167655f73697a65223a343039362c2264657669636573223a5b5d7d'),
  );
});

test('encodeVmDescription() describes devices in the words of QEMU', () => {
  const json = decodeJson(
    encodeVmDescription(4096, [
      {
        name: 'globalstate',
        instanceId: 0,
        version: 1,
        vmsdName: 'globalstate',
        fields: GLOBAL_STATE_FIELDS,
      },
      {
        name: 'cpu',
        instanceId: 1,
        version: 12,
        fields: [{ name: 'regs', type: 'uint64', sizeBytes: 8, arrayLength: 16 }],
      },
    ]),
  );
  assert.deepEqual(JSON.parse(json), {
    page_size: 4096,
    devices: [
      {
        name: 'globalstate',
        instance_id: 0,
        vmsd_name: 'globalstate',
        version: 1,
        fields: [
          { name: 'size', type: 'uint32', size: 4 },
          { name: 'runstate', type: 'buffer', size: 100 },
        ],
      },
      {
        name: 'cpu',
        instance_id: 1,
        version: 12,
        fields: [{ name: 'regs', type: 'uint64', array_len: 16, size: 8 }],
      },
    ],
  });
});

test('encodeVmDescription() is found by searching for the last NUL and the first brace, whatever its length', () => {
  for (let nameBytes = 1; nameBytes <= 300; nameBytes++) {
    const record = encodeVmDescription(4096, [
      { name: 'x'.repeat(nameBytes), instanceId: 0, version: 1, fields: [] },
    ]);
    const found = record.indexOf(0x7b, record.lastIndexOf(0));
    assert.equal(found, 5, `with a name of ${nameBytes} bytes`);
    JSON.parse(decodeJson(record));
  }
});

test('encodeVmDescription() lets the device sections be walked by the sizes it states', () => {
  const { devices } = JSON.parse(
    decodeJson(
      encodeVmDescription(4096, [
        { name: 'example', instanceId: 0, version: 1, fields: lengthPrefixedFields(3) },
        { name: 'globalstate', instanceId: 0, version: 1, fields: GLOBAL_STATE_FIELDS },
      ]),
    ),
  ) as { devices: { name: string; fields: { size: number }[] }[] };
  const sections = Buffer.from(deviceSections);
  let position = 0;
  for (const { name, fields } of devices) {
    const nameStart = position + 6;
    assert.equal(sections.toString('latin1', nameStart, nameStart + sections[nameStart - 1]!), name);
    position = nameStart + name.length + 8 + fields.reduce((sum, field) => sum + field.size, 0);
    assert.equal(sections[position], 0x7e);
    position += 5;
  }
  assert.equal(position, sections.length);
});
