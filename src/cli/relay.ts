/**
 * `postcopy relay`: stands between the source and the destination of a migration, passes on what they say, checks it, and
 * tells what it sees.
 */
import { constants } from 'node:os';
import type { Command } from 'commander';
import { relayMigration } from '../relay/relay.ts';
import type { RelayReport } from '../relay/relay-report.ts';
import { progressText, relayReportText } from '../relay/report-text.ts';
import { whyExposed } from '../transport/exposed-address.ts';
import { parseMigrationUri, UriError } from '../transport/parse-uri.ts';
import { endProcess, printMessage } from './end-process.ts';
import { OBJECT_HELP, repeatable } from './object-option.ts';
import { CommandTls } from './tls-options.ts';
import { UsageError } from './usage-error.ts';

const EXAMPLES = `
Bytes are passed on unchanged, and only once they are found legal: an illegal record ends the migration before it reaches the
other side. Precopy, postcopy, and its recovery over the same addresses. The capabilities multifd and postcopy-preempt open
connections of their own and must be off.

Exit code 0 when a migration has passed whole, 1 when it failed, 130 after ^C.

Examples:
  The source migrates to port 4444 here, where a relay stands; the destination waits at port 4445:
    postcopy relay tcp:127.0.0.1:4444 tcp:127.0.0.1:4445

  The same, keeping the stream for "postcopy inspect":
    postcopy relay --record vm.stream unix:/tmp/in.sock unix:/tmp/out.sock

  Protected by TLS on both sides, checked in between:
    postcopy relay tcp:0.0.0.0:4444 tcp:host2:4444 --listen-tls-creds in --connect-tls-creds out \\
      --object tls-creds-x509,id=in,endpoint=server,dir=/etc/pki/postcopy \\
      --object tls-creds-x509,id=out,endpoint=client,dir=/etc/pki/postcopy

  A stream from a file, checked on its way into a QEMU that waits:
    postcopy relay file:vm.stream unix:/tmp/incoming.sock
`;

interface RelayCommandOptions {
  readonly record?: string;
  readonly json?: true;
  readonly object?: readonly string[];
  readonly listenTlsCreds?: string;
  readonly tlsAuthz?: string;
  readonly connectTlsCreds?: string;
  readonly tlsHostname?: string;
}

/** Adds the command to the program. */
export function addRelayCommand(program: Command): void {
  program
    .command('relay')
    .description('pass a migration on, check it, and say what it is made of')
    .argument('<listen-uri>', 'where the source of the migration connects')
    .argument('<connect-uri>', 'where its destination waits')
    .option(
      '--record <file>',
      "keep the main stream's bytes as they pass, in place of what FILE held; of each recovery in FILE.2, FILE.3, ...",
    )
    .option('--object <properties>', OBJECT_HELP, repeatable)
    .option(
      '--listen-tls-creds <id>',
      'object with the credentials towards the source: the relay is its server',
    )
    .option('--tls-authz <id>', 'object that says which sources may come')
    .option(
      '--connect-tls-creds <id>',
      'object with the credentials towards the destination: the relay is its client',
    )
    .option(
      '--tls-hostname <name>',
      "what the destination's certificate must have, if not the host of its address",
    )
    .option('--json', 'print the report as JSON')
    .addHelpText('after', EXAMPLES)
    .action(async (listenUri: string, connectUri: string, options: RelayCommandOptions) =>
      endProcess(await relay(listenUri, connectUri, options)),
    );
}

async function relay(
  listenUri: string,
  connectUri: string,
  { record, json, ...names }: RelayCommandOptions,
): Promise<number> {
  checkUri('<listen-uri>', listenUri);
  checkUri('<connect-uri>', connectUri);
  const tls = new CommandTls(names.object);
  const listenTls = tls.of('server', '--listen-tls-creds', {
    credentials: names.listenTlsCreds,
    authorization: names.tlsAuthz,
  });
  const connectTls = tls.of('client', '--connect-tls-creds', {
    credentials: names.connectTlsCreds,
    hostname: names.tlsHostname,
  });
  const warning = listenTls === undefined ? whyExposed(listenUri) : undefined;
  if (warning !== undefined) printMessage(warning);
  const stop = new AbortController();
  let signalNumber = constants.signals.SIGINT;
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(name, () => {
      signalNumber = constants.signals[name];
      stop.abort();
    });
  }
  const line = new StatusLine(process.stderr.isTTY === true);
  let last: RelayReport | undefined;
  const { report, isDone } = await relayMigration({
    listenUri,
    connectUri,
    listenTls,
    connectTls,
    recordPath: record,
    signal: stop.signal,
    onMessage: (text) => line.message(text),
    onState: (state) => line.message(state),
    ...(line.isShown && {
      onProgress: (now) => {
        line.show(progressText(now, last));
        last = now;
      },
    }),
  });
  line.clear();
  process.stdout.write(json ? `${JSON.stringify(report, null, 2)}\n` : relayReportText(report));
  if (isDone) return 0;
  return stop.signal.aborted ? 128 + signalNumber : 1;
}

function checkUri(name: string, uri: string): void {
  try {
    parseMigrationUri(uri);
  } catch (error) {
    throw error instanceof UriError ? new UsageError(`${name}: ${error.message}`) : error;
  }
}

/** The last line of a terminal, which messages scroll away above. */
class StatusLine {
  readonly isShown: boolean;

  constructor(isShown: boolean) {
    this.isShown = isShown;
  }

  show(text: string): void {
    process.stderr.write(`\r\x1b[K${text.slice(0, (process.stderr.columns ?? 80) - 1)}`);
  }

  message(text: string): void {
    this.clear();
    printMessage(text);
  }

  clear(): void {
    if (this.isShown) process.stderr.write('\r\x1b[K');
  }
}
