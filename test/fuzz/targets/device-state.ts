/** The device state of a v86 machine, with its checksum put right so that what is behind it is looked at. */
import { createHash } from 'node:crypto';
import {
  decodeDeviceState,
  encodeDeviceState,
  type StateValue,
} from '../../../src/machine/v86/state-codec.ts';
import { checkStateShape } from '../../../src/machine/v86/state-shape.ts';
import {
  guestDowntime,
  stopMoment,
  unwrapDeviceState,
  wrapDeviceState,
} from '../../../src/threads/device-envelope.ts';
import { type Piece, PieceWriter, rawPiece } from '../piece.ts';
import { BrokenPromise, type Run, type Target } from '../target.ts';
import { once } from './seeds.ts';

const OWN: StateValue = [
  1,
  [true, null, 'x'],
  Uint8Array.from({ length: 300 }, (_, index) => index % 7),
  Int32Array.of(5, 0, 0, 9),
  [2.5, Number.NaN],
];
const HEADER_BYTES = 64;

const seed = once((): readonly Piece[] => {
  const bytes = Buffer.from(encodeDeviceState({ guestNowMs: 5, guestEpochMs: 1e12, tree: OWN }));
  const treeBytes = bytes.readUInt32LE(24);
  const head = new PieceWriter().number(bytes.readUInt32BE(0), 4).number(bytes.readUInt32BE(4), 4);
  for (let at = 8; at < 24; at += 8) head.number(bytes.readBigUInt64BE(at), 8);
  const json = bytes.toString('utf8', HEADER_BYTES, HEADER_BYTES + treeBytes);
  const tokens = json.match(/[{}[\]:,]|"[^"]*"|[^{}[\]:,"]+/g) ?? [];
  return [
    head.piece('head'),
    ...tokens.map((token) => rawPiece('token', Buffer.from(token))),
    rawPiece('arrays', bytes.subarray(HEADER_BYTES + treeBytes)),
  ];
});

const donor = once(() =>
  [
    '{"toString":1}',
    '{"f":{"valueOf":0}}',
    '{"a":"Uint8Array","n":{"toString":[]},"r":[]}',
    '"__proto__"',
    '1e999',
    '[[[[[[[[[',
  ].map((text) => rawPiece('token', Buffer.from(text))),
);

function mend(pieces: readonly Piece[]): readonly Piece[] {
  const head = Buffer.alloc(HEADER_BYTES);
  const [first, ...rest] = pieces;
  head.set((first?.bytes ?? new Uint8Array(0)).subarray(0, 24));
  const tree = Buffer.concat(rest.filter(({ kind }) => kind === 'token').map(({ bytes }) => bytes));
  const arrays = Buffer.concat(rest.filter(({ kind }) => kind !== 'token').map(({ bytes }) => bytes));
  head.writeUInt32LE(tree.length, 24);
  head.writeUInt32LE(arrays.length, 28);
  const whole = Buffer.concat([head, tree, arrays]);
  const hash = createHash('sha256').update(whole.subarray(0, 32)).update(whole.subarray(64)).digest();
  whole.set(hash, 32);
  return [rawPiece('state', whole)];
}

function load(run: Run): void {
  const wrapped = wrapDeviceState(run.bytes, stopMoment(0n));
  const { state, moment } = unwrapDeviceState(wrapped);
  guestDowntime(moment, 1n);
  const { tree, guestNowMs } = decodeDeviceState(state);
  if (!Number.isFinite(guestNowMs)) throw new BrokenPromise('a guest time that is none');
  checkStateShape(OWN, tree, { free: ['1.*'], equal: { '0': 'the version' } });
  run.say('loaded');
}

export const DEVICE_STATE_TARGET: Target = {
  name: 'device-state',
  seeds: once(() => [seed()]),
  donors: donor,
  mend,
  refusals: ['DeviceStateError'],
  largestBytes: (bytes) => 256 * 2 ** 20 + 4 * bytes,
  allocatedBytes: (bytes) => 300 * 2 ** 20 + 64 * bytes,
  run: load,
};
