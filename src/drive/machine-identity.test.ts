import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type MachineIdentity, whatIsDoubtful, whyNotAlike } from './machine-identity.ts';

const QEMU: MachineIdentity = {
  program: 'QEMU 7.2.22',
  isBuiltIn: false,
  version: [7, 2, 22],
  machineType: 'pc-i440fx-7.2',
  target: 'x86_64',
  memoryBytes: 2 ** 30,
  cpuCount: 2,
  commands: new Set(),
};
const OURS: MachineIdentity = {
  ...{ program: 'postcopy 0.1.0', isBuiltIn: true, version: [0, 1, 0], machineType: 'v86-0.5' },
  ...{ target: undefined, memoryBytes: undefined, cpuCount: undefined, commands: new Set<string>() },
};

test('whyNotAlike() says in what two machines differ, as far as both tell', () => {
  assert.equal(whyNotAlike(QEMU, QEMU), undefined);
  assert.equal(whyNotAlike(OURS, OURS), undefined);
  assert.equal(whyNotAlike(QEMU, { ...QEMU, machineType: undefined, memoryBytes: undefined }), undefined);
  for (const [difference, why] of [
    [
      { machineType: 'pc-q35-7.2' },
      /^Another machine type: .* QEMU 7.2.22 \(pc-i440fx-7.2\), .* \(pc-q35-7.2\)/,
    ],
    [{ target: 'i386' }, /^Another architecture: the source is a x86_64, the destination a i386/],
    [{ memoryBytes: 2 ** 29 }, /^Another memory size: the source has 1 GiB, the destination 512 MiB/],
    [{ cpuCount: 1 }, /^Another number of processors: the source has 2, the destination 1/],
  ] as const) {
    assert.match(whyNotAlike(QEMU, { ...QEMU, ...difference }) ?? '', why);
  }
});

test('whyNotAlike() never lets a guest go from QEMU to ours or back, even of the same machine type', () => {
  const why = /that is another machine with other devices/;
  assert.match(whyNotAlike(QEMU, OURS) ?? '', why);
  assert.match(whyNotAlike(OURS, QEMU) ?? '', why);
  assert.match(whyNotAlike(OURS, { ...QEMU, machineType: undefined }) ?? '', why);
});

test('whatIsDoubtful() is an older destination', () => {
  assert.equal(whatIsDoubtful(QEMU, QEMU), undefined);
  assert.equal(whatIsDoubtful(QEMU, { ...QEMU, version: [8, 0, 0] }), undefined);
  assert.equal(whatIsDoubtful({ ...QEMU, version: [7, 1, 50] }, QEMU), undefined);
  assert.match(
    whatIsDoubtful(QEMU, { ...QEMU, version: [7, 2, 21], program: 'QEMU 7.2.21' }) ?? '',
    /\(QEMU 7.2.21\) is older/,
  );
  assert.match(whatIsDoubtful({ ...QEMU, version: [10, 0, 0] }, QEMU) ?? '', /is older than the source/);
});
