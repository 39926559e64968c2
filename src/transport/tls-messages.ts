/**
 * What the main thread and the thread of a TLS connection say to each other.
 */
import type { TlsSettings } from '../tls/tls-objects.ts';

export interface TlsPumpData {
  /** The connection, non-blocking; the thread closes it. */
  readonly fd: number;
  readonly settings: TlsSettings;
  /** Of a client: the name that the certificate of the server must have. */
  readonly hostname: string | undefined;
  readonly handshakeMs: number;
  /** A peer that acknowledges nothing for so long is gone. */
  readonly peerTimeoutMs: number;
}

export type TlsPumpNotice =
  /** From here on the descriptor of the connection is the thread's. */
  | { readonly kind: 'taken' }
  /** The handshake is done. The descriptor is the receiver's: it reads and writes what is protected on the way. */
  | { readonly kind: 'secure'; readonly fd: number }
  /** There is no connection, and the thread ends. */
  | { readonly kind: 'failed'; readonly code: string; readonly text: string }
  /** The connection broke after the handshake, for a reason that the descriptor cannot tell. */
  | { readonly kind: 'broken'; readonly text: string };

/** `end`: this process ends; what was written before the descriptor was closed is still sent, and no more is waited for. */
export type TlsPumpOrder = { readonly kind: 'end' };
