/**
 * Addresses that others than this host's processes can reach.
 */
import { BlockList } from 'node:net';
import { parseMigrationUri } from './parse-uri.ts';

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4');
LOOPBACK.addAddress('::1', 'ipv6');

/** @returns a warning for whoever listens there without TLS; undefined if only this host can connect */
export function whyExposed(address: string): string | undefined {
  const uri = parseMigrationUri(address);
  if (uri.scheme !== 'tcp' || isLoopback(uri.host)) return undefined;
  return `${address} is not protected: whoever reaches it can send or read the memory of a guest, and change it on the way (tls-creds protects it)`;
}

/** Whether it is an address of this host that no other can reach. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || LOOPBACK.check(host, host.includes(':') ? 'ipv6' : 'ipv4');
}
