/**
 * `postcopy serve`: a snapshot for restores on other hosts.
 */
import type { Command } from 'commander';
import { type MigrationUri, parseMigrationUri, UriError } from '../transport/parse-uri.ts';
import { OBJECT_HELP, repeatable } from './object-option.ts';
import { CommandTls } from './tls-options.ts';
import { UsageError } from './usage-error.ts';

const EXAMPLES = `
The other host restores it with "postcopy restore tcp:HOST:PORT -- qemu-system-x86_64 ...": its guest runs at once, pages
cross the network when they are touched, the others behind them. Any number of hosts at once.

Whoever can reach the address can read the memory of the guest, unless TLS protects it: --tls-creds, see docs/tls.md. Without it keep
to a network that you trust, or to a tunnel such as that of ssh.

Exit code 0 when it was told to end (SIGINT, SIGTERM), 1 when it could not serve, 2 for wrong usage.

Examples:
  To everybody on this network:
    postcopy serve web1.snap --listen tcp:0.0.0.0:7000
  To those who have a certificate of our authority:
    postcopy serve web1.snap --listen tcp:0.0.0.0:7000 --tls-creds tls0 \\
      --object tls-creds-x509,id=tls0,endpoint=server,dir=/etc/pki/postcopy
  Through ssh, for one other host:
    postcopy serve web1.snap --listen tcp:127.0.0.1:7000
    ssh -R 7000:127.0.0.1:7000 host2 postcopy restore tcp:127.0.0.1:7000 -- qemu-system-x86_64 -m 2G -nographic
`;

export interface ServeCommandOptions {
  readonly listen: string;
  readonly maxSessions: string;
  readonly json?: true;
  readonly object?: readonly string[];
  readonly tlsCreds?: string;
  readonly tlsAuthz?: string;
}

/** Adds the command to the program. */
export function addServeCommand(program: Command): void {
  program
    .command('serve')
    .description('serve a snapshot to restores on other hosts')
    .argument('<snapshot>', 'file of "postcopy save", of QEMU\'s mapped-ram, or a migration stream')
    .requiredOption('--listen <uri>', 'where restores connect: tcp:HOST:PORT or unix:PATH')
    .option('--max-sessions <count>', 'how many may be connected at once; each takes some 13 MB', '32')
    .option('--object <properties>', OBJECT_HELP, repeatable)
    .option('--tls-creds <id>', 'object with the credentials of this server')
    .option('--tls-authz <id>', 'object that says which restores may come')
    .option('--json', 'a line of JSON for every session that has ended, at standard output')
    .addHelpText('after', EXAMPLES)
    .action(async (path: string, options: ServeCommandOptions) => {
      const uri = parseListenUri(options.listen);
      const maxSessions = parseCount(options.maxSessions);
      const { serveSnapshot } = await import('./serve-snapshot.ts');
      const tls = new CommandTls(options.object).of('server', '--tls-creds', {
        credentials: options.tlsCreds,
        authorization: options.tlsAuthz,
      });
      await serveSnapshot(path, { uri, maxSessions, isJson: options.json === true, tls });
    });
}

function parseListenUri(text: string): MigrationUri & { scheme: 'tcp' | 'unix' } {
  try {
    const uri = parseMigrationUri(text);
    if (uri.scheme === 'tcp' || uri.scheme === 'unix') return uri;
  } catch (error) {
    if (error instanceof UriError) throw new UsageError(`--listen: ${error.message}`);
    throw error;
  }
  throw new UsageError(`--listen must be tcp:HOST:PORT or unix:PATH, got "${text}"`);
}

function parseCount(text: string): number {
  const count = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  if (count > 0) return count;
  throw new UsageError(`--max-sessions must be a number from 1 to 999999, got "${text}"`);
}
