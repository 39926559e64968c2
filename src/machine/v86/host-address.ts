/** Where a piece of JavaScript memory is in this process, for other threads and the kernel. */
import koffi from 'koffi';

/**
 * The host address of the first byte of `bytes`.
 *
 * It holds as long as the memory is neither freed nor moved; a WebAssembly memory keeps its place when it grows.
 */
export function hostAddressOf(bytes: Uint8Array): bigint {
  return koffi.address(bytes.buffer) + BigInt(bytes.byteOffset);
}
