/**
 * Decodes the commands of a stream (see commands.ts), and refuses those that have no place where they come.
 *
 * A destination gets a package collected as a part of its command; who only looks on gets what is announced of it.
 */
import { hex } from './ascii-text.ts';
import { CollectedBytes } from './collected-bytes.ts';
import {
  COMMAND_HEADER_BYTES,
  COMMANDS,
  type Command,
  type DecodedCommand,
  decodeCommandPayload,
  isMigrationCommand,
  type MigrationCommand,
} from './commands.ts';
import type { InputBuffer } from './input-buffer.ts';
import type { WireRamBlock } from './ram-record.ts';
import type { StreamError } from './stream-error.ts';
import type { StreamLimits } from './stream-limits.ts';

/** `precopy` becomes `postcopy` with PACKAGED; the others stay what they are. */
type Phase = 'precopy' | 'postcopy' | 'package' | 'resumed';

type CommandType = DecodedCommand['type'];

const ALLOWED: Record<Phase, ReadonlySet<CommandType>> = {
  precopy: new Set<CommandType>([
    'open-return-path',
    'ping',
    'postcopy-advise',
    'postcopy-advise-bitmaps',
    'postcopy-ram-discard',
    'packaged-header',
    'enable-colo',
    'switchover-start',
  ]),
  postcopy: new Set<CommandType>(['ping', 'postcopy-run']),
  package: new Set<CommandType>(['postcopy-listen', 'ping', 'postcopy-run']),
  resumed: new Set<CommandType>(['ping', 'recv-bitmap', 'postcopy-resume']),
};

/** How far RAM has come when a command is read. */
interface RamProgress {
  readonly isRamStarted: boolean;
  readonly isRamComplete: boolean;
}

/** The block of this name, undefined if there is none. */
export type FindBlock = (idstr: string) => WireRamBlock | undefined;

export class CommandDecoder {
  readonly #input: InputBuffer;
  readonly #findKnownBlock: FindBlock;
  readonly #limits: StreamLimits;
  #phase: Phase;
  #isReturnPathOpen = false;
  #isAdvised = false;
  #isRunSeen = false;
  #package: CollectedBytes | null = null;

  constructor(
    input: InputBuffer,
    findBlock: FindBlock,
    limits: StreamLimits,
    phase: Exclude<Phase, 'postcopy'>,
  ) {
    this.#input = input;
    this.#findKnownBlock = findBlock;
    this.#limits = limits;
    this.#phase = phase;
  }

  /** Whether the devices have been sent in a package, and only RAM still comes. */
  get isPostcopy(): boolean {
    return this.#phase === 'postcopy' || this.#phase === 'resumed';
  }

  /**
   * The command at the input's position, which is left behind it; or null if it is not complete yet.
   *
   * @throws {StreamError}
   */
  step(ram: RamProgress): Command | null {
    if (this.#package !== null) return this.#stepPackage(this.#package);
    const command = this.#decode(ram);
    if (command === null) return null;
    switch (command.type) {
      case 'postcopy-advise-bitmaps':
        throw this.#unsupported('dirty-bitmaps');
      case 'enable-colo':
        throw this.#unsupported('x-colo');
      case 'packaged-header':
        this.#leave(command);
        this.#package = new CollectedBytes(command.lengthBytes);
        return this.#stepPackage(this.#package);
      default:
        this.#leave(command);
        return command;
    }
  }

  /** The package that has passed ends with RUN: none may follow it. */
  sawRun(): void {
    this.#isRunSeen = true;
  }

  /** The same for who only looks on: the bytes of a package are left in the input, and no feature is refused. */
  stepForeign(ram: RamProgress): DecodedCommand | null {
    const command = this.#decode(ram);
    if (command === null) return null;
    this.#leave(command);
    if (command.type === 'packaged-header') this.#phase = 'postcopy';
    return command;
  }

  /** The command at the input's position, which stays there. */
  #decode(ram: RamProgress): DecodedCommand | null {
    const input = this.#input;
    const start = input.position;
    if (input.available < COMMAND_HEADER_BYTES) return null;
    const number = input.view.getUint16(start + 1);
    const payloadBytes = input.view.getUint16(start + 3);
    if (!isMigrationCommand(number)) {
      throw input.error('BAD_COMMAND', `MIG_CMD ${hex(number)} unknown (len ${hex(payloadBytes)})`, start);
    }
    this.#checkLength(number, payloadBytes);
    if (input.available < COMMAND_HEADER_BYTES + payloadBytes) return null;
    const payloadStart = start + COMMAND_HEADER_BYTES;
    const payload = input.bytes.subarray(payloadStart, payloadStart + payloadBytes);
    const command = decodeCommandPayload(number, payload, input.at(payloadStart), input.streamName);
    this.#checkPlace(command, number, ram);
    this.#checkContent(command);
    return command;
  }

  #leave(command: DecodedCommand): void {
    const input = this.#input;
    input.position += COMMAND_HEADER_BYTES + input.view.getUint16(input.position + 3);
    if (command.type === 'open-return-path') this.#isReturnPathOpen = true;
    if (command.type === 'postcopy-advise' || command.type === 'postcopy-advise-bitmaps')
      this.#isAdvised = true;
    if (command.type === 'postcopy-run') this.#isRunSeen = true;
  }

  #stepPackage(collected: CollectedBytes): Command | null {
    const input = this.#input;
    input.position += collected.take(input.bytes, input.position, input.end);
    if (!collected.isComplete) return null;
    this.#package = null;
    this.#phase = 'postcopy';
    return { type: 'packaged', bytes: collected.bytes };
  }

  /** Before the payload is there: a wrong length must not make us wait for it. */
  #checkLength(number: MigrationCommand, gotBytes: number): void {
    const { name, payloadBytes } = COMMANDS[number];
    const position = this.#input.position + 3;
    if (payloadBytes !== 'variable' && gotBytes !== payloadBytes) {
      const what = `Length of ${name} must be ${payloadBytes}, got ${gotBytes}`;
      throw this.#input.error('BAD_LENGTH', what, position);
    }
    if (gotBytes > this.#limits.commandBytes) {
      const what = `Length of ${name} must be at most ${this.#limits.commandBytes}, got ${gotBytes}`;
      throw this.#input.error('LIMIT', what, position);
    }
  }

  #checkPlace(command: DecodedCommand, number: MigrationCommand, ram: RamProgress): void {
    const refusal = this.#refusal(command, ram);
    if (refusal === null) return;
    throw this.#input.error(
      'BAD_COMMAND',
      `Command ${COMMANDS[number].name} has no place here: ${refusal}`,
      this.#input.position,
    );
  }

  /** Why a command may not come here, or null if it may. */
  #refusal(command: DecodedCommand, { isRamStarted, isRamComplete }: RamProgress): string | null {
    if (!ALLOWED[this.#phase].has(command.type)) return `the stream is in its ${this.#phase} phase`;
    switch (command.type) {
      case 'ping':
        // A package and a recovery come when one is open.
        return this.#phase === 'precopy' && !this.#isReturnPathOpen ? 'no return path is open' : null;
      case 'postcopy-advise':
      case 'postcopy-advise-bitmaps':
        if (isRamStarted) return 'RAM has started';
        return this.#isAdvised ? 'postcopy was advised before' : null;
      case 'postcopy-ram-discard':
      case 'packaged-header':
        if (!this.#isAdvised) return 'postcopy was not advised';
        if (!isRamStarted) return 'RAM has not started';
        return isRamComplete ? 'RAM is complete' : null;
      case 'postcopy-run':
        return this.#isRunSeen ? 'it has come before' : null;
      default:
        return null;
    }
  }

  #checkContent(command: DecodedCommand): void {
    const payloadStart = this.#input.position + COMMAND_HEADER_BYTES;
    switch (command.type) {
      case 'packaged-header':
        if (command.lengthBytes === 0)
          throw this.#input.error('BAD_LENGTH', 'Package is empty', payloadStart);
        if (command.lengthBytes > this.#limits.packageBytes) {
          const what = `Package must take at most ${this.#limits.packageBytes} bytes, got ${command.lengthBytes}`;
          throw this.#input.error('LIMIT', what, payloadStart);
        }
        return;
      case 'recv-bitmap':
        this.#findBlock(command.idstr, payloadStart);
        return;
      case 'postcopy-ram-discard': {
        const block = this.#findBlock(command.idstr, payloadStart + 1);
        command.ranges.forEach((range, index) => {
          const position = payloadStart + 1 + 1 + block.idstr.length + 1 + index * 16;
          this.#checkRange(block, range.start, range.lengthBytes, position);
        });
      }
    }
  }

  #unsupported(capability: string): StreamError {
    const what = `Cannot receive with capability "${capability}"; switch it off at the source`;
    return this.#input.error('UNSUPPORTED', what, this.#input.position);
  }

  #findBlock(idstr: string, position: number): WireRamBlock {
    const block = this.#findKnownBlock(idstr);
    if (block !== undefined) return block;
    throw this.#input.error(
      'UNKNOWN_BLOCK',
      `Unknown ramblock "${idstr}", cannot accept migration`,
      position,
    );
  }

  #checkRange(block: WireRamBlock, start: number, lengthBytes: number, position: number): void {
    const { idstr, pageSizeBytes } = block;
    const isAligned = start % pageSizeBytes === 0 && lengthBytes % pageSizeBytes === 0;
    if (isAligned && lengthBytes > 0 && start + lengthBytes <= block.lengthBytes) return;
    throw this.#input.error(
      'OUT_OF_RANGE',
      `Cannot discard: range must be whole pages of ${pageSizeBytes} bytes within the ${hex(block.lengthBytes)} bytes of "${idstr}", got ${hex(start)}+${hex(lengthBytes)}`,
      position,
    );
  }
}
