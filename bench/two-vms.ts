/**
 * A guest, and a machine in another process that it moves to over loopback TCP.
 */
import type { MigrationInfo } from '../src/migration/migration-info.ts';
import type { ObjectProperties } from '../src/tls/object-properties.ts';
import { MIB } from './bench.ts';
import { type GuestSettings, RemoteVm } from './remote-vm.ts';

export interface TwoVms {
  readonly source: RemoteVm;
  readonly destination: RemoteVm;
  /**
   * Moves the guest.
   *
   * @param through makes of the destination's address the one that the source connects to
   * @returns what both sides say when it is done
   */
  migrate(
    through?: (address: string) => Promise<string>,
  ): Promise<{ readonly source: MigrationInfo; readonly destination: MigrationInfo }>;
}

/** Credentials, as objects of each side. */
export interface TlsOfBoth {
  readonly server: ObjectProperties;
  readonly client: ObjectProperties;
}

async function protect(vm: RemoteVm, properties: ObjectProperties): Promise<void> {
  await vm.addObject({ ...properties, id: 'tls0' });
  await vm.configure(false, { 'tls-creds': 'tls0' });
}

/** Runs `body` with both machines there, and ends them after it. */
export async function withTwoVms<Result>(
  guest: GuestSettings,
  body: (vms: TwoVms) => Promise<Result>,
  tls?: TlsOfBoth,
): Promise<Result> {
  const machines: RemoteVm[] = [];
  const add = async (starting: Promise<RemoteVm>) => {
    const vm = await starting;
    machines.push(vm);
    return vm;
  };
  try {
    const memoryBytes = guest.memoryMib * MIB;
    const destination = await add(RemoteVm.create({ memoryBytes, incoming: 'defer' }));
    const source = await add(RemoteVm.runGuest(guest));
    if (tls !== undefined) {
      await protect(destination, tls.server);
      await protect(source, tls.client);
    }
    await destination.listen('tcp:127.0.0.1:0');
    const migrate = async (through = async (address: string) => address) => {
      await source.migrate(await through(await destination.address()));
      return { source: await source.completed(), destination: await destination.completed() };
    };
    return await body({ source, destination, migrate });
  } finally {
    await Promise.all(machines.map((vm) => vm.close()));
  }
}
