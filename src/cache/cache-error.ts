/** The cache cannot be used; the text says why and where. Everything goes on without it. */
export class CacheError extends Error {
  override readonly name = 'CacheError';
}
