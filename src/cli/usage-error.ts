/** The command line cannot be understood: exit code 2, and the text says what would do. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}
