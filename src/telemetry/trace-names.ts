/**
 * The trace points by name, for whoever must list or match them at run time.
 *
 * The compiler holds this list equal to the event table.
 */
import type { TraceName } from './trace-events.ts';

const IS_TRACE_NAME = {
  migrate_set_state: true,
  migration_bitmap_sync_end: true,
  savevm_section_start: true,
  savevm_section_end: true,
  savevm_command_send: true,
  savevm_send_ping: true,
  qemu_loadvm_state_section: true,
  loadvm_process_command: true,
  send_rp_message: true,
  source_return_path_thread_entry: true,
  source_return_path_thread_pong: true,
  postcopy_start: true,
  postcopy_send_discard_bm_ram: true,
  postcopy_ram_discard_range: true,
  postcopy_ram_fault_thread_request: true,
  ram_save_queue_pages: true,
  postcopy_place_page: true,
  postcopy_incoming_state: true,
  postcopy_pause: true,
  postcopy_pause_continued: true,
  postcopy_pause_incoming: true,
  postcopy_pause_incoming_continued: true,
  ram_dirty_bitmap_reload_complete: true,
  migrate_pending: true,
} as const satisfies Record<TraceName, true>;

export const TRACE_NAMES = Object.keys(IS_TRACE_NAME) as readonly TraceName[];

/**
 * @param pattern a name, or one with `*` for any characters, none included
 * @returns the names it matches, in the order of the event table; none is not an error
 */
export function matchTraceNames(pattern: string): TraceName[] {
  return TRACE_NAMES.filter((name) => matchesPattern(name, pattern));
}

/** Takes the literal parts from left to right, each at its first place: linear, whatever the pattern. */
function matchesPattern(name: string, pattern: string): boolean {
  const [first = '', ...rest] = pattern.split('*');
  const last = rest.pop();
  if (last === undefined) return name === first;
  if (!name.startsWith(first) || name.length < first.length + last.length || !name.endsWith(last))
    return false;
  const end = name.length - last.length;
  let at = first.length;
  for (const part of rest) {
    const found = name.indexOf(part, at);
    if (found === -1 || found + part.length > end) return false;
    at = found + part.length;
  }
  return true;
}
