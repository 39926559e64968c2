/**
 * Every trace point of the program on one page: name, and its typed fields.
 *
 * Names follow QEMU's `trace-events` where QEMU has the same point. Times are milliseconds on the clock that the
 * emitting engine is given; `at` is the byte offset in the stream. Tracing is off unless a name is switched on.
 */
export interface TraceEvents {
  /** A migration changed state; `side` says whose. Also the QMP event MIGRATION. */
  migrate_set_state: { side: 'source' | 'destination'; from: string; to: string };
  /** A pass over RAM begins with this many dirty pages (QMP event MIGRATION_PASS). */
  migration_bitmap_sync_end: { pass: number; dirtyPages: number };
  /** Sections and commands written. */
  savevm_section_start: { idstr: string; sectionId: number; type: string };
  savevm_section_end: { idstr: string; sectionId: number; bytes: number };
  savevm_command_send: { command: string; bytes: number };
  savevm_send_ping: { value: number };
  /** Sections and commands loaded. */
  qemu_loadvm_state_section: { type: string; sectionId: number; idstr: string; at: number };
  loadvm_process_command: { command: string; bytes: number; at: number };
  /** Return path, both ends. */
  send_rp_message: { message: string; bytes: number };
  source_return_path_thread_entry: { message: string; bytes: number };
  source_return_path_thread_pong: { value: number; roundTripUs: number };
  /** Postcopy. */
  postcopy_start: { cause: string; remainingPages: number };
  postcopy_send_discard_bm_ram: { idstr: string; start: number; lengthBytes: number };
  postcopy_ram_discard_range: { idstr: string; start: number; lengthBytes: number };
  postcopy_ram_fault_thread_request: { idstr: string; offset: number };
  ram_save_queue_pages: { idstr: string; start: number; lengthBytes: number };
  postcopy_place_page: { idstr: string; offset: number; zero: boolean };
  postcopy_incoming_state: { from: string; to: string };
  /** An interruption and its end. Source: pages to send; destination: pages missing. */
  postcopy_pause: { dirtyPages: number };
  postcopy_pause_continued: { dirtyPages: number; recoveries: number; pausedMs: number };
  postcopy_pause_incoming: { missingPages: number };
  postcopy_pause_incoming_continued: { missingPages: number; recoveries: number; pausedMs: number };
  /** Recovery: the destination has said which pages of a block it has. */
  ram_dirty_bitmap_reload_complete: { idstr: string; dirtyPages: number };
  /** Decisions of precopy at the end of a pass: what remains, and what may remain. */
  migrate_pending: { remainingBytes: number; thresholdBytes: number; bandwidthBytesPerSecond: number };
}

export type TraceName = keyof TraceEvents;

/** Where trace points go. The engine asks `isEnabled` first, so a point that is off costs no allocation. */
export interface Trace {
  isEnabled(name: TraceName): boolean;
  emit<Name extends TraceName>(name: Name, fields: TraceEvents[Name]): void;
}

export const NO_TRACE: Trace = { isEnabled: () => false, emit: () => {} };
