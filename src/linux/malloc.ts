/**
 * How the C library's allocator gives memory back to the kernel. Nothing here does anything where it is not glibc's.
 *
 * glibc keeps what was freed in an arena for every few threads. It gives back what lies at an arena's end, once that is
 * more than a threshold, which it raises whenever a large block is freed.
 */
import { libc } from './libc.ts';

const M_TRIM_THRESHOLD = -1;
const M_MMAP_THRESHOLD = -3;
/** What both thresholds are before glibc raises them. */
const THRESHOLD_BYTES = 128 * 1024;

const malloptCall = optional('int mallopt(int parameter, int value)');
const mallocTrimCall = optional('int malloc_trim(size_t pad)');

/**
 * Keeps the thresholds of this process where they are at its start: setting one ends their growth.
 *
 * @see https://man7.org/linux/man-pages/man3/mallopt.3.html
 */
export function keepAllocatorThresholds(): void {
  malloptCall?.(M_MMAP_THRESHOLD, THRESHOLD_BYTES);
  malloptCall?.(M_TRIM_THRESHOLD, THRESHOLD_BYTES);
}

/**
 * Gives back every whole page that is free in any arena, also between blocks in use.
 *
 * @see https://man7.org/linux/man-pages/man3/malloc_trim.3.html
 */
export function giveFreeMemoryBack(): void {
  mallocTrimCall?.(0);
}

function optional(prototype: string): ((...values: number[]) => number) | undefined {
  try {
    return libc.func(prototype);
  } catch {
    return undefined;
  }
}
