/** Whether the text names a server of snapshots rather than a file: `tcp:HOST:PORT` or `unix:PATH`. */
export function isServerUri(text: string): boolean {
  return /^(tcp|unix):/.test(text);
}
