/** A migration could not begin or go on; the text is for the operator. */
export class MigrationError extends Error {
  override readonly name = 'MigrationError';
}
