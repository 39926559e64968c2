/**
 * A snapshot on its way into a machine, as the main thread holds it: the thread that sends it, and what that says.
 */
import { EventEmitter } from 'node:events';
import { MessageChannel, type MessagePort, type Worker } from 'node:worker_threads';
import { closeFd } from '../linux/fd.ts';
import { closeEventfd, createEventfd } from '../linux/poll.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { DEFAULT_CAPABILITIES } from '../migration/capabilities.ts';
import type { MigrationInfo } from '../migration/migration-info.ts';
import { DEFAULT_PARAMETERS } from '../migration/parameters.ts';
import type { PageRun } from '../migration/push-order.ts';
import type { MigrationStatus } from '../migration/states.ts';
import type { Snapshot } from '../snapshot/snapshot.ts';
import type { FetchedPagesData } from '../threads/fetched-pages.ts';
import type { MigrationNotice } from '../threads/messages.ts';
import { MigrationOrders } from '../threads/migration-orders.ts';
import type { PageRecording } from '../threads/page-recording.ts';
import { startSnapshotThread } from '../threads/start-threads.ts';
import type { Channel } from '../transport/channel.ts';
import { encodeDescriptionRecord, encodeVmDescription } from '../wire/vm-description.ts';

export interface SnapshotSourceSettings {
  /** Everything before the guest runs, rather than pages as it needs them. */
  readonly isFull: boolean;
  /** Of what is pushed; 0 is no limit. */
  readonly maxBytesPerSecond: number;
  readonly pushFirst: readonly PageRun[];
  /** Push only when the guest has asked for nothing during so many milliseconds. */
  readonly quietBeforePushMs: number;
  readonly recording: PageRecording | undefined;
  /** The destination asks for all that it wants (`SourceOptions.isPulled`). Default: false. */
  readonly isPulled?: boolean;
  /** When the connection is lost in postcopy, the thread waits in `postcopy-paused` for `recover`. Default: false. */
  readonly isRecoverable?: boolean;
}

/** A snapshot to send, or one that is being fetched from elsewhere. */
export interface SendableSnapshot extends Omit<Snapshot, 'format' | 'close'> {
  /** Of a snapshot that is being fetched; it can be sent once. */
  readonly fetching?: {
    readonly pages: FetchedPagesData;
    /** Wakes whoever sends. It outlives him. */
    readonly senderWakeFd: number;
    /** Where he says which pages he needs. */
    readonly demands: MessagePort;
  };
}

export class SnapshotSource extends EventEmitter<{
  status: [status: MigrationStatus, error: string | undefined];
}> {
  /** Resolves when the thread has ended and its descriptor is closed. */
  readonly ended: Promise<void>;
  readonly #worker: Worker;
  readonly #orders: MigrationOrders;
  readonly #wakeFd: number;
  #fd: number;
  /** Whether it is ours to close. */
  readonly #ownsWakeFd: boolean;
  #status: MigrationStatus = 'none';
  #error: string | undefined;
  #isFdClosed = false;

  /** @param snapshot stays the caller's, and must stay open until `ended` */
  constructor(snapshot: SendableSnapshot, channel: Channel, settings: SnapshotSourceSettings) {
    super();
    const orders = new MessageChannel();
    const { hasReturnPath } = channel;
    this.#ownsWakeFd = snapshot.fetching === undefined;
    this.#wakeFd = snapshot.fetching?.senderWakeFd ?? createEventfd();
    this.#fd = channel.detach();
    this.#orders = new MigrationOrders(orders.port1, this.#wakeFd, (notice) => this.#heed(notice));
    const { vmDescription, fetching } = snapshot;

    this.#worker = startSnapshotThread({
      fd: this.#fd,
      hasReturnPath,
      orders: orders.port2,
      wakeFd: this.#wakeFd,
      traces: [],
      capabilities: { ...DEFAULT_CAPABILITIES, 'postcopy-ram': !settings.isFull },
      parameters: {
        ...DEFAULT_PARAMETERS,
        'max-bandwidth': settings.maxBytesPerSecond,
        'max-postcopy-bandwidth': settings.maxBytesPerSecond,
      },
      snapshotFd: snapshot.fd,
      snapshotPath: snapshot.path,
      machineType: snapshot.machineType,
      uuid: snapshot.uuid,
      ramSectionId: snapshot.ramSectionId,
      blocks: snapshot.blocks.map(({ data }) => data),
      deviceSections: snapshot.deviceSections,
      // QEMU waits for one behind EOF, and only passes over it: it need not describe anything.
      description:
        vmDescription === undefined
          ? encodeVmDescription(TARGET_PAGE_BYTES, [])
          : encodeDescriptionRecord(vmDescription),
      pushFirst: settings.pushFirst,
      quietBeforePushMs: settings.quietBeforePushMs,
      recordingWords: settings.recording?.words,
      isPulled: settings.isPulled ?? false,
      isRecoverable: settings.isRecoverable ?? false,
      fetched: fetching === undefined ? undefined : { pages: fetching.pages, demands: fetching.demands },
    });
    this.#worker.on('error', (error) => this.#setStatus('failed', error.message));
    this.ended = new Promise((resolve) => {
      this.#worker.once('exit', () => {
        this.#giveBack();
        resolve();
      });
    });
    // The switch comes first: nothing is sent before the guest is there.
    if (!settings.isFull) void this.#orders.ask((id) => ({ kind: 'start-postcopy', id }));
  }

  get status(): MigrationStatus {
    return this.#status;
  }

  /** Why it failed. */
  get error(): string | undefined {
    return this.#error;
  }

  /** Statistics: of now, or of the end; undefined if the thread died. */
  query(): Promise<MigrationInfo | undefined> {
    return this.#orders.query();
  }

  /**
   * Goes on over a new connection, to the same machine.
   *
   * @throws {Error} with the engine's reason if it refuses; the channel is closed in any case then
   */
  async recover(channel: Channel): Promise<void> {
    if (this.#orders.isOver) {
      channel.close();
      throw new Error('The thread that sends the snapshot has ended: it cannot go on');
    }
    this.#fd = channel.detach();
    this.#isFdClosed = false;
    const answer = await this.#orders.ask((id) => ({ kind: 'recover', id, fd: this.#fd }));
    if (answer?.kind === 'answer' && answer.error !== undefined) throw new Error(answer.error);
  }

  /** Ends the thread, whatever it does: a guest that lacks pages waits for them for ever. May be called twice. */
  async close(): Promise<void> {
    this.#orders.order({ kind: 'close' });
    await this.ended;
  }

  #heed(notice: MigrationNotice): void {
    if (notice.kind === 'channel-closed') this.#isFdClosed = true;
    else if (notice.kind === 'status') this.#setStatus(notice.status, notice.error);
    // The far end of a channel without a return path is not ours to wait for: it has everything.
    else if (notice.kind === 'flushed') this.#orders.order({ kind: 'peer-finished', error: undefined });
  }

  #setStatus(status: MigrationStatus, error: string | undefined): void {
    this.#status = status;
    this.#error = error;
    this.emit('status', status, error);
  }

  #giveBack(): void {
    this.#orders.end();
    if (this.#ownsWakeFd) closeEventfd(this.#wakeFd);
    if (!this.#isFdClosed) closeFd(this.#fd); // The thread died before it came to that.
  }
}
