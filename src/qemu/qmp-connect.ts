/**
 * A connection to a monitor, and its greeting: that it is a QMP server, and that it has time for us.
 *
 * A monitor of QEMU serves one client. The kernel takes a second one's connection all the same, and then nothing comes:
 * hence the time limit, and its text.
 */
import { connect, type Socket } from 'node:net';
import type { JsonReader } from './json-reader.ts';
import { formatQmpAddress, type QmpAddress } from './qmp-address.ts';
import { QmpConnectionError } from './qmp-errors.ts';

/** Connects. @throws {QmpConnectionError} `refused` if nobody is there, or it takes longer than `timeoutMs` */
export function connectSocket(address: QmpAddress, timeoutMs: number): Promise<Socket> {
  const socket =
    address.kind === 'unix' ? connect(address.path) : connect({ host: address.host, port: address.port });
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => fail(new Error(`no connection within ${timeoutMs / 1000} s`)), timeoutMs);
    const fail = (error: NodeJS.ErrnoException) => {
      clearTimeout(timer);
      socket.destroy();
      const text = `Cannot connect to the monitor ${formatQmpAddress(address)}: ${reasonOf(error)}`;
      reject(new QmpConnectionError('refused', text, { cause: error }));
    };
    socket.once('error', fail);
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.off('error', fail);
      resolve(socket);
    });
  });
}

export interface QmpGreeting {
  /** QEMU's version and the name of its package. */
  readonly version: {
    readonly qemu: { readonly major: number; readonly minor: number; readonly micro: number };
    readonly package: string;
  };
  /** Whether urgent commands can overtake others, so that they are heard while the guest's memory is waited for. */
  readonly hasOob: boolean;
}

/**
 * Reads the greeting; what follows it is left to the caller, who has the reader.
 *
 * @throws {QmpConnectionError} if it does not come, or is none
 */
export function readGreeting(
  socket: Socket,
  reader: JsonReader,
  address: QmpAddress,
  timeoutMs: number,
): Promise<QmpGreeting> {
  const where = `The monitor ${formatQmpAddress(address)}`;
  return new Promise((resolve, reject) => {
    const settle = (outcome: QmpGreeting | QmpConnectionError) => {
      clearTimeout(timer);
      socket.off('data', onData);
      socket.off('close', onClose);
      socket.off('error', onError);
      if (outcome instanceof Error) reject(outcome);
      else resolve(outcome);
    };
    const onData = (chunk: Buffer) => {
      for (const item of reader.push(chunk)) {
        const greeting = 'value' in item ? parseGreeting(item.value) : undefined;
        settle(greeting ?? new QmpConnectionError('not-qmp', notQmpText(where, chunk)));
        return;
      }
    };
    const onClose = () => {
      const why = `${where} closed the connection before it greeted: it is no QMP server, or it takes no more clients`;
      settle(new QmpConnectionError('closed', why));
    };
    const onError = (error: Error) => {
      const why = `${where} broke the connection before it greeted: ${reasonOf(error)}`;
      settle(new QmpConnectionError('closed', why, { cause: error }));
    };
    const timer = setTimeout(() => {
      const why =
        `${where} took the connection and did not greet within ${timeoutMs / 1000} s: another client holds it (a ` +
        'monitor of QEMU serves one at a time: close the other, or start QEMU with a second -qmp), the process is ' +
        'stopped, or it is no QMP server';
      settle(new QmpConnectionError('no-greeting', why));
    }, timeoutMs);
    socket.on('data', onData);
    socket.on('close', onClose);
    socket.on('error', onError);
  });
}

function parseGreeting(value: unknown): QmpGreeting | undefined {
  const qmp = member(value, 'QMP');
  const version = member(qmp, 'version');
  const numbers = member(version, 'qemu');
  const [major, minor, micro] = ['major', 'minor', 'micro'].map((name) => member(numbers, name));
  if (typeof major !== 'number' || typeof minor !== 'number' || typeof micro !== 'number') return undefined;
  const capabilities = member(qmp, 'capabilities');
  return {
    version: { qemu: { major, minor, micro }, package: String(member(version, 'package') ?? '') },
    hasOob: Array.isArray(capabilities) && capabilities.includes('oob'),
  };
}

function member(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}

function notQmpText(where: string, chunk: Buffer): string {
  const said = JSON.stringify(chunk.subarray(0, 60).toString('latin1'));
  const hint = /monitor - type 'help'/.test(chunk.toString('latin1'))
    ? 'that is the monitor for people (-monitor); give the address of -qmp'
    : 'it is no QMP server';
  return `${where} does not greet as QMP does, ${hint}. It said: ${said}`;
}

function reasonOf(error: NodeJS.ErrnoException): string {
  switch (error.code) {
    case 'ENOENT':
      return 'there is no such socket';
    case 'ECONNREFUSED':
      return 'nobody listens there';
    case 'EACCES':
      return 'permission denied';
    default:
      return error.message;
  }
}
