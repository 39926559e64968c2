/**
 * Two hosts with a cable between them, which can be pulled, swallow everything, or be slow: network namespaces and a bridge.
 *
 *   host a                           wire                           host b
 *   eth0 10.213.7.1  ── veth ── port-a ─ bridge ─ port-b ── veth ── eth0 10.213.7.2
 *
 * Each host knows the other's hardware address for good, so that nothing but silence tells it that packets go nowhere.
 */
import { spawnSync } from 'node:child_process';
import type { TestContext } from 'node:test';
import { atEnd } from './cleanup.ts';
import { skipUnless } from './requirements.ts';

export type HostName = 'a' | 'b';

const NET = '10.213.7.0/24';
const HOSTS = {
  a: { address: '10.213.7.1', mac: '02:00:00:00:07:01' },
  b: { address: '10.213.7.2', mac: '02:00:00:00:07:02' },
} as const;

let count = 0;

export class TwoHosts {
  readonly #name = `postcopy-${process.pid}-${++count}`;

  /** @returns undefined if they cannot be made here; the test has been marked as skipped then */
  static start(t: TestContext): TwoHosts | undefined {
    const hosts = new TwoHosts();
    atEnd(t, () => hosts.#remove());
    try {
      hosts.#make();
    } catch (error) {
      const why = `network namespaces with veth and bridge, made by ip(8) as root: ${(error as Error).message}`;
      skipUnless(t, 'two hosts', false, why);
      return undefined;
    }
    return hosts;
  }

  address(host: HostName): string {
    return HOSTS[host].address;
  }

  /** The command that runs a program on a host. */
  within(host: HostName): readonly string[] {
    return ['ip', 'netns', 'exec', this.#namespace(host)];
  }

  /** The cable is out of the wire's socket: the host sees that it has no link. */
  pull(host: HostName): void {
    ip('-n', this.#namespace('wire'), 'link', 'set', portOf(host), 'down');
  }

  plugIn(host: HostName): void {
    ip('-n', this.#namespace('wire'), 'link', 'set', portOf(host), 'up');
  }

  /** Everything that is sent is lost, and nobody is told. */
  swallow(): void {
    ip('-n', this.#namespace('wire'), 'link', 'set', portOf('b'), 'nomaster');
  }

  carry(): void {
    ip('-n', this.#namespace('wire'), 'link', 'set', portOf('b'), 'master', 'bridge');
  }

  /** Holds what a host sends to a rate. */
  slow(host: HostName, mbitPerSecond: number): void {
    const shape = ['root', 'tbf', 'rate', `${mbitPerSecond}mbit`, 'burst', '32k', 'latency', '200ms'];
    run('tc', ['-n', this.#namespace(host), 'qdisc', 'replace', 'dev', 'eth0', ...shape]);
  }

  #namespace(which: HostName | 'wire'): string {
    return `${this.#name}-${which}`;
  }

  #make(): void {
    const wire = this.#namespace('wire');
    ip('netns', 'add', wire);
    ip('-n', wire, 'link', 'add', 'bridge', 'type', 'bridge');
    ip('-n', wire, 'link', 'set', 'bridge', 'up');
    for (const [host, other] of [
      ['a', 'b'],
      ['b', 'a'],
    ] as const) {
      const namespace = this.#namespace(host);
      ip('netns', 'add', namespace);
      ip('-n', wire, 'link', 'add', portOf(host), 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace);
      ip('-n', wire, 'link', 'set', portOf(host), 'master', 'bridge');
      ip('-n', wire, 'link', 'set', portOf(host), 'up');
      ip('-n', namespace, 'link', 'set', 'eth0', 'address', HOSTS[host].mac);
      ip('-n', namespace, 'address', 'add', `${HOSTS[host].address}/${NET.split('/')[1]}`, 'dev', 'eth0');
      ip('-n', namespace, 'link', 'set', 'lo', 'up');
      ip('-n', namespace, 'link', 'set', 'eth0', 'up');
      const { address, mac } = HOSTS[other];
      ip('-n', namespace, 'neigh', 'replace', address, 'lladdr', mac, 'dev', 'eth0', 'nud', 'permanent');
    }
  }

  #remove(): void {
    for (const which of ['a', 'b', 'wire'] as const) {
      spawnSync('ip', ['netns', 'delete', this.#namespace(which)]);
    }
  }
}

/** Its end of the cable, at the wire. */
function portOf(host: HostName): string {
  return `port-${host}`;
}

function ip(...args: string[]): void {
  run('ip', args);
}

/** @throws {Error} with what the command said */
function run(command: string, args: readonly string[]): void {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? stderr.trim()}`);
}
