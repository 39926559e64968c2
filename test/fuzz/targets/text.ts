/** What monitors read, and what people type: tokens in a row. */
import { PassThrough } from 'node:stream';
import { FakeVm } from '../../../src/monitor/fake-vm.ts';
import { HumanSession } from '../../../src/monitor/human.ts';
import { QmpSession } from '../../../src/monitor/qmp.ts';
import { JsonReader } from '../../../src/qemu/json-reader.ts';
import { formatQmpAddress, parseQmpAddress } from '../../../src/qemu/qmp-address.ts';
import { formatMigrationUri, parseMigrationUri } from '../../../src/transport/parse-uri.ts';
import { type Piece, rawPiece } from '../piece.ts';
import { BrokenPromise, cutUp, digest, type Run, type Target } from '../target.ts';
import { once } from './seeds.ts';

const MIB = 2 ** 20;

function tokens(...lines: readonly string[]): readonly Piece[] {
  const found = lines.flatMap((line) => `${line}\n`.match(/[{}[\]:,\s]|"[^"]*"|[^{}[\]:,"\s]+/g) ?? []);
  return found.map((token) => rawPiece('token', Buffer.from(token, 'utf8')));
}

const QMP = once(() => [
  tokens(
    '{"execute":"qmp_capabilities","arguments":{"enable":["oob"]},"id":1}',
    '{"execute":"query-status","id":{"a":[1,2,"x"]}}',
    '{"execute":"migrate","arguments":{"uri":"tcp:127.0.0.1:4444","resume":true}}',
    '{"exec-oob":"migrate-recover","arguments":{"uri":"unix:/tmp/x"},"id":"o"}',
  ),
  tokens(
    '{"execute":"qmp_capabilities"}',
    '{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"postcopy-ram","state":true}]}}',
    '{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":1000000,"downtime-limit":300}}',
    '{"execute":"trace-event-set-state","arguments":{"name":"savevm_*","enable":true}}',
    '{"execute":"query-migrate"}',
    '{"execute":"object-add","arguments":{"qom-type":"tls-creds-psk","id":"t","dir":"/nowhere","endpoint":"client"}}',
  ),
]);

const HMP = once(() => [
  tokens(
    'help migrate',
    'info migrate',
    'migrate -d tcp:localhost:4444',
    'migrate_set_parameter max-bandwidth 32M',
    'migrate_set_capability postcopy-ram on',
    'migrate "exec:cat > \\"x\\"" ',
    'trace-event savevm_* on',
    'migrate_recover unix:/tmp/x',
    'object_add tls-creds-psk,id=t,dir=/nowhere',
  ),
]);

/** Its migrations end at once, so that nobody waits for them. */
class QuickVm extends FakeVm {
  override migrationEnded(): Promise<'completed'> {
    return Promise.resolve('completed');
  }
}

function session(run: Run, kind: 'qmp' | 'hmp'): Promise<void> {
  const streams = { input: new PassThrough(), output: new PassThrough() };
  const host = { vm: new QuickVm(), version: '0.1.0', quit: () => {}, interrupt: () => {} };
  const served = kind === 'qmp' ? new QmpSession(host, streams) : new HumanSession(host, streams);
  const said: Buffer[] = [];
  streams.output.on('data', (bytes: Buffer) => said.push(bytes));
  const done = served.ended.then(() => {
    served.close();
    const text = Buffer.concat(said).toString('utf8');
    if (/\n\s+at .*:\d+:\d+/.test(text)) throw new BrokenPromise(`it shows a stack trace: ${text}`);
    const bug =
      /(Cannot (read|convert|set)|is not (a function|iterable|defined)|Maximum call stack|ERR_)[^\n]*/.exec(
        text,
      );
    if (bug !== null) throw new BrokenPromise(`it shows a mistake of ours: ${bug[0]}`);
    for (const line of text.split('\n')) run.say(line.length > 300 ? digest(Buffer.from(line)) : line);
  });
  for (const chunk of cutUp(run.bytes, run)) streams.input.write(chunk);
  streams.input.end();
  return done;
}

export const TEXT_TARGETS: readonly Target[] = [
  {
    name: 'json-reader',
    seeds: QMP,
    refusals: [],
    largestBytes: (bytes) => 4096 + 4 * bytes,
    allocatedBytes: (bytes) => MIB + 64 * bytes,
    run: (run) => {
      const reader = new JsonReader(2000);
      for (const chunk of cutUp(run.bytes, run)) {
        for (const item of reader.push(chunk))
          run.say('error' in item ? item.error : JSON.stringify(item.value));
      }
    },
  },
  {
    name: 'qmp-session',
    seeds: QMP,
    refusals: [],
    largestBytes: (bytes) => 2 * MIB + 4 * bytes,
    allocatedBytes: (bytes) => 16 * MIB + 256 * bytes,
    // An urgent command overtakes what is there.
    heedsCuts: true,
    steps: () => 1_000_000,
    run: (run) => session(run, 'qmp'),
  },
  {
    name: 'human-session',
    seeds: HMP,
    refusals: [],
    largestBytes: (bytes) => 2 * MIB + 4 * bytes,
    allocatedBytes: (bytes) => 16 * MIB + 256 * bytes,
    heedsCuts: true,
    steps: () => 1_000_000,
    run: (run) => session(run, 'hmp'),
  },
  {
    name: 'addresses',
    seeds: once(() => [
      tokens('tcp:127.0.0.1:4444'),
      tokens('tcp:[::1]:0'),
      tokens('unix:/tmp/a.sock'),
      tokens('file:/tmp/a,offset=0x1000'),
      tokens('exec:cat > x'),
      tokens('fd:3'),
    ]),
    refusals: ['UriError'],
    largestBytes: (bytes) => 4096 + 4 * bytes,
    allocatedBytes: (bytes) => MIB + 64 * bytes,
    run: (run) => {
      const text = Buffer.from(run.bytes).toString('utf8').trimEnd();
      try {
        const address = formatQmpAddress(parseQmpAddress(text));
        if (formatQmpAddress(parseQmpAddress(address)) !== address)
          throw new BrokenPromise(`not the same: ${address}`);
      } catch (error) {
        if (!(error instanceof RangeError) || !/onitor|[Pp]ath/.test(error.message)) throw error;
      }
      try {
        const uri = formatMigrationUri(parseMigrationUri(text));
        if (formatMigrationUri(parseMigrationUri(uri)) !== uri)
          throw new BrokenPromise(`not the same: ${uri}`);
        run.say(uri.replace(/:.*/s, ''));
      } catch (error) {
        // Its text quotes what the user has typed.
        if ((error as Error).name !== 'UriError') throw error;
        run.say('refused');
      }
    },
  },
];
