/** A guest could not be saved; the text is for the operator. */
export class SaveError extends Error {
  override readonly name = 'SaveError';
}
