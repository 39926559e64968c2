/**
 * `postcopy save`: the guest of a running QEMU to a file.
 */
import type { Command } from 'commander';
import { parseSize } from '../monitor/parse-quantity.ts';
import { parseQmpAddress } from '../qemu/qmp-address.ts';
import { checkSocketWishes } from '../save/migration-socket.ts';
import { Save, type SaveOptions, type SaveProgress } from '../save/save.ts';
import { formatSaveReport } from '../save/save-report.ts';
import { SnapshotError } from '../snapshot/snapshot-error.ts';
import { formatBytes, formatBytesPerSecond, formatCount } from '../telemetry/format.ts';
import { whyExposed } from '../transport/exposed-address.ts';
import { endProcess, endProcessNow, printMessage } from './end-process.ts';
import { OBJECT_HELP, repeatable } from './object-option.ts';
import { CommandTls } from './tls-options.ts';
import { UsageError } from './usage-error.ts';

interface SaveCommandOptions {
  readonly qmp: string;
  readonly overwrite?: boolean;
  readonly keepRunning?: boolean;
  readonly quit?: boolean;
  readonly background?: boolean;
  readonly maxBandwidth?: string;
  readonly downtimeLimit?: string;
  readonly via?: string;
  readonly connect?: string;
  readonly json?: boolean;
  readonly object?: readonly string[];
  readonly tlsCreds?: string;
  readonly tlsAuthz?: string;
}

const ABOUT = `save the guest of a running QEMU to a file. Its memory is copied while it runs, then it is stopped and stays \
paused, unless --keep-running or --background say otherwise. The file is in QEMU's mapped-ram format`;

const EXAMPLES = `
QEMU must have a QMP monitor that nobody else uses: -qmp unix:vm.qmp,server=on,wait=off
There is a whole file, or none; if there is none, the guest runs on. ^C gives up. Exit code 0 if saved, else 1.

Examples:
  postcopy save --qmp vm.qmp web1.snap                     the guest stays paused: "cont" or "quit" at its monitor
  postcopy save --qmp vm.qmp --keep-running web1.snap      it goes on when the file is on the disk
  postcopy save --qmp vm.qmp --background web1.snap        its state of now, and next to no pause
  postcopy save --qmp tcp:host:4445 --via tcp:192.0.2.7:0 web1.snap
                                                           a QEMU on another host, that reaches this one as 192.0.2.7
`;

const MIB = 2 ** 20;
const MAX_DOWNTIME_MS = 2_000_000;
const PROGRESS_MS = 1000;
const WAITS_FOR_BACKGROUND =
  'gives up when QEMU has sent everything: the guest of some versions hangs if a save in the background is cut off';
const SIGNALS = ['SIGHUP', 'SIGINT', 'SIGTERM'] as const;

/** Adds the command to the program. */
export function addSaveCommand(program: Command): void {
  program
    .command('save')
    .description(ABOUT)
    .argument('<file>', 'the snapshot to write')
    .requiredOption('--qmp <address>', "QEMU's monitor for programs: unix:PATH, tcp:HOST:PORT or a path")
    .option('--overwrite', 'replace the file if it is there')
    .optionsGroup('The guest:')
    .option('--keep-running', 'let the guest go on when the file is on the disk, if it ran before')
    .option('--quit', 'end QEMU when the file is on the disk')
    .option('--background', "with QEMU's background-snapshot: the guest runs on, and is saved as it is now")
    .optionsGroup('The migration:')
    .option(
      '--max-bandwidth <size>',
      'bytes per second, with K, M or G; a bare number counts MiB (default: no limit)',
    )
    .option(
      '--downtime-limit <ms>',
      "how long the guest may stand still for the last pass (default: QEMU's own)",
    )
    .option('--via <uri>', 'listen for QEMU at tcp:HOST:PORT or unix:PATH (default: a private socket)')
    .option('--connect <uri>', 'what QEMU is told, if it reaches that by another address')
    .option('--object <properties>', OBJECT_HELP, repeatable)
    .option('--tls-creds <id>', 'object with the credentials of --via; QEMU needs tls-creds of its own')
    .option('--tls-authz <id>', 'object that says which QEMU may come')
    .optionsGroup('Output:')
    .option('--json', 'the report as JSON')
    .addHelpText('after', EXAMPLES)
    .action(async (path: string, options: SaveCommandOptions) => {
      await endProcess(await save(path, options));
    });
}

/** @returns the exit code. @throws {UsageError} or why it cannot be saved */
async function save(path: string, options: SaveCommandOptions): Promise<number> {
  const abort = new AbortController();
  const line = new ProgressLine(process.stderr.isTTY === true);
  const settings = parseSaveOptions(path, options);
  const { via, tls } = settings.socket;
  const warning = via === undefined || tls !== undefined ? undefined : whyExposed(via);
  if (warning !== undefined) printMessage(warning);
  const running = new Save({
    ...settings,
    onProgress: (progress) => line.show(progress),
    signal: abort.signal,
  });
  const onSignal = () => {
    if (!abort.signal.aborted) {
      abort.abort();
      if (options.background) printMessage(WAITS_FOR_BACKGROUND);
    } else if (!options.background) {
      running.cleanUpNow();
      endProcessNow(1);
    }
  };
  for (const signal of SIGNALS) process.on(signal, onSignal);
  try {
    const report = await running.run();
    line.clear();
    process.stdout.write(
      `${options.json ? JSON.stringify(report, undefined, 2) : formatSaveReport(report)}\n`,
    );
    return 0;
  } catch (error) {
    if (error instanceof SnapshotError && error.code === 'EXISTS' && !options.overwrite) {
      throw new Error(`${error.message} (--overwrite replaces it)`, { cause: error });
    }
    throw error;
  } finally {
    line.clear();
    for (const signal of SIGNALS) process.off(signal, onSignal);
  }
}

/** @throws {UsageError} if an option makes no sense, or two do not go together */
export function parseSaveOptions(
  path: string,
  options: SaveCommandOptions,
): Omit<SaveOptions, 'onProgress' | 'signal'> {
  if (path === '') throw new UsageError('The name of the file is empty');
  if (options.background && options.maxBandwidth !== undefined) {
    throw new UsageError(
      '--background and --max-bandwidth do not go together: QEMU heeds no limit in the background',
    );
  }
  if (options.background && options.downtimeLimit !== undefined) {
    throw new UsageError('--background and --downtime-limit do not go together: there is no last pass');
  }
  if (options.quit && options.keepRunning)
    throw new UsageError('--quit and --keep-running do not go together');
  const tls = new CommandTls(options.object).of('server', '--tls-creds', {
    credentials: options.tlsCreds,
    authorization: options.tlsAuthz,
  });
  const socket = { via: options.via, connect: options.connect, tls };
  given(() => checkSocketWishes(socket));
  given(() => parseQmpAddress(options.qmp), '--qmp: ');
  return {
    qmp: options.qmp,
    path,
    overwrite: options.overwrite === true,
    isBackground: options.background === true,
    afterwards: options.quit ? 'quit' : options.keepRunning || options.background ? 'run' : 'stay',
    maxBytesPerSecond: parseRate(options.maxBandwidth),
    downtimeLimitMs: parseDowntimeLimit(options.downtimeLimit),
    socket,
  };
}

function parseRate(text: string | undefined): number {
  if (text === undefined) return 0;
  const bytesPerSecond = given(() => parseSize(text, MIB), '--max-bandwidth: ');
  if (bytesPerSecond === 0)
    throw new UsageError('--max-bandwidth: must be more than nothing; leave it out for no limit');
  return bytesPerSecond;
}

function parseDowntimeLimit(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d+$/.test(text) && Number(text) <= MAX_DOWNTIME_MS) return Number(text);
  throw new UsageError(
    `--downtime-limit: must be a whole number of milliseconds up to ${MAX_DOWNTIME_MS}, got "${text}"`,
  );
}

function given<Value>(parse: () => Value, prefix = ''): Value {
  try {
    return parse();
  } catch (error) {
    throw new UsageError(`${prefix}${(error as Error).message}`, { cause: error });
  }
}

/** A line of a terminal that is written again once a second. */
class ProgressLine {
  readonly #isShown: boolean;
  #dueAtMs = 0;
  #lastBytes = 0;
  #lastMs = 0;
  #isDirty = false;

  /** @param isShown whether somebody looks at it */
  constructor(isShown: boolean) {
    this.#isShown = isShown;
  }

  show({ elapsedMs, counts, pass, remainingBytes }: SaveProgress): void {
    if (!this.#isShown || elapsedMs < this.#dueAtMs) return;
    this.#dueAtMs = elapsedMs + PROGRESS_MS;
    const { streamBytes, normalPages, zeroPages, xbzrlePages } = counts;
    const rate = ((streamBytes - this.#lastBytes) / Math.max(elapsedMs - this.#lastMs, 1)) * 1000;
    this.#lastBytes = streamBytes;
    this.#lastMs = elapsedMs;
    const parts = [
      `pass ${pass ?? 1}`,
      `${formatCount(normalPages + zeroPages + xbzrlePages)} pages`,
      `${formatBytes(streamBytes)} at ${formatBytesPerSecond(rate)}`,
      ...(remainingBytes === undefined ? [] : [`${formatBytes(remainingBytes)} to go`]),
    ];
    process.stderr.write(`\r\x1b[K${parts.join(', ')}`);
    this.#isDirty = true;
  }

  clear(): void {
    if (this.#isDirty) process.stderr.write('\r\x1b[K');
    this.#isDirty = false;
  }
}
