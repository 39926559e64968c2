/**
 * userfaultfd(2): faults of a memory range, handled by us.
 *
 *   missing faults  the guest touches a page that is not there; it waits until we place one (destination)
 *   write-protect   the guest writes to a page we protected; it waits until we lift that (source, older kernels),
 *                   or, with WP_ASYNC, the kernel lifts it by itself and remembers (source, Linux 6.7)
 *
 * A descriptor belongs to the process: one thread opens it, others `attach` to its number. Each object has argument
 * memory of its own, so an object must stay in one thread.
 *
 * See the kernel's Documentation/admin-guide/mm/userfaultfd.rst and linux/userfaultfd.h.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { closeFd, readInto, WOULD_BLOCK } from './fd.ts';
import { checked, Errno, lastErrno, libc, SyscallError } from './libc.ts';
import { type Mapping, mapAnonymous } from './memory.ts';

const SYS_userfaultfd = { x64: 323, arm64: 282 } as Record<string, number>;

const UFFD_API = 0xaa;
const UFFD_USER_MODE_ONLY = 1;

/** `_IOC(direction, type, number, size)` of linux/ioctl.h, as x86 and arm define it. */
export function ioctlNumber(
  direction: 'none' | 'read' | 'read-write',
  type: number,
  number: number,
  sizeBytes: number,
): number {
  const bits = { none: 0, read: 2, 'read-write': 3 }[direction];
  return bits * 2 ** 30 + sizeBytes * 2 ** 16 + type * 2 ** 8 + number;
}

const USERFAULTFD_IOC_NEW = ioctlNumber('none', 0xaa, 0x00, 0);
const UFFDIO_API = ioctlNumber('read-write', 0xaa, 0x3f, 24);
const UFFDIO_REGISTER = ioctlNumber('read-write', 0xaa, 0x00, 32);
const UFFDIO_UNREGISTER = ioctlNumber('read', 0xaa, 0x01, 16);
const UFFDIO_WAKE = ioctlNumber('read', 0xaa, 0x02, 16);
const UFFDIO_COPY = ioctlNumber('read-write', 0xaa, 0x03, 40);
const UFFDIO_ZEROPAGE = ioctlNumber('read-write', 0xaa, 0x04, 32);
const UFFDIO_WRITEPROTECT = ioctlNumber('read-write', 0xaa, 0x06, 24);

/** `UFFD_FEATURE_*` */
export const UffdFeature = {
  PAGEFAULT_FLAG_WP: 1 << 0,
  WP_UNPOPULATED: 1 << 13,
  WP_ASYNC: 1 << 15,
} as const;

/** `UFFDIO_REGISTER_MODE_*` */
export const RegisterMode = { MISSING: 1, WP: 2 } as const;

const UFFDIO_WRITEPROTECT_MODE_WP = 1;
const UFFD_EVENT_PAGEFAULT = 0x12;
const UFFD_PAGEFAULT_FLAG_WP = 2;

const MESSAGE_BYTES = 32;
const MAX_MESSAGES = 64;
/** Ioctl arguments stand at the start of the argument memory, fault messages behind them. */
const MESSAGES_AT = 256;

const syscallNewUserfaultfd = libc.func('long syscall(long number, long flags)');
const ioctlCall = libc.func('int ioctl(int fd, uint64_t request, uintptr_t argument)');

/** What became of a page we wanted to place. */
export type Placement = 'placed' | 'exists';

export class Userfaultfd {
  readonly fd: number;
  readonly #arguments: Mapping = mapAnonymous(4096);
  readonly #view: DataView;
  readonly #argumentsAddress: number;
  readonly #isOpener: boolean;
  #isOpen = true;

  private constructor(fd: number, isOpener: boolean) {
    this.fd = fd;
    this.#isOpener = isOpener;
    this.#view = new DataView(this.#arguments.bytes.buffer, this.#arguments.bytes.byteOffset, 4096);
    this.#argumentsAddress = Number(this.#arguments.address);
  }

  /**
   * Opens a userfaultfd by the first way this process is allowed: `/dev/userfaultfd`, the system call, the system call
   * for faults of user mode only (all that a guest running in user mode needs).
   *
   * @param features `UffdFeature` bits that must be there
   * @throws {SyscallError} `EINVAL` if the kernel lacks a feature, `EPERM`/`ENOSYS` if it allows no way at all
   */
  static open(features: number): Userfaultfd {
    const uffd = new Userfaultfd(openDescriptor(), true);
    try {
      uffd.#view.setBigUint64(0, BigInt(UFFD_API), true);
      uffd.#view.setBigUint64(8, BigInt(features), true);
      uffd.#ioctl(UFFDIO_API, 'UFFDIO_API');
      return uffd;
    } catch (error) {
      uffd.close();
      throw error;
    }
  }

  /** The same open userfaultfd for another thread than the one that opened it. */
  static attach(fd: number): Userfaultfd {
    return new Userfaultfd(fd, false);
  }

  /** The same in place of its opener, which has died without closing it. */
  static inherit(fd: number): Userfaultfd {
    return new Userfaultfd(fd, true);
  }

  /** @param mode `RegisterMode` bits */
  register(address: bigint, lengthBytes: number, mode: number): void {
    this.#setRange(address, lengthBytes);
    this.#view.setBigUint64(16, BigInt(mode), true);
    this.#ioctl(UFFDIO_REGISTER, 'UFFDIO_REGISTER');
  }

  /** Faults of the range are the kernel's again; whoever waits in one is woken and tries again. */
  unregister(address: bigint, lengthBytes: number): void {
    this.#setRange(address, lengthBytes);
    this.#ioctl(UFFDIO_UNREGISTER, 'UFFDIO_UNREGISTER');
  }

  /** Lets whoever waits in the range try again. */
  wake(address: number, lengthBytes: number): void {
    this.#setU64(0, address);
    this.#setU64(8, lengthBytes);
    this.#ioctl(UFFDIO_WAKE, 'UFFDIO_WAKE');
  }

  /**
   * Places pages at `address` with the bytes at `source`, and wakes whoever waits for them.
   *
   * @returns `exists` if a page is there already; it is left as it is
   */
  copy(address: number, source: number, lengthBytes: number): Placement {
    this.#setU64(0, address);
    this.#setU64(8, source);
    this.#setU64(16, lengthBytes);
    this.#setU64(24, 0);
    return this.#place(UFFDIO_COPY, 'UFFDIO_COPY', address);
  }

  /** Places zero pages at `address`, and wakes whoever waits for them. */
  zeroPage(address: number, lengthBytes: number): Placement {
    this.#setU64(0, address);
    this.#setU64(8, lengthBytes);
    this.#setU64(16, 0);
    return this.#place(UFFDIO_ZEROPAGE, 'UFFDIO_ZEROPAGE', address);
  }

  /** Protects a range against writing, or lifts that and wakes whoever waits to write. */
  writeProtect(address: number, lengthBytes: number, isProtected: boolean): void {
    this.#setU64(0, address);
    this.#setU64(8, lengthBytes);
    this.#setU64(16, isProtected ? UFFDIO_WRITEPROTECT_MODE_WP : 0);
    for (;;) {
      if (ioctlCall(this.fd, UFFDIO_WRITEPROTECT, this.#argumentsAddress) !== -1) return;
      const errno = lastErrno();
      if (errno !== Errno.EAGAIN) throw new SyscallError('ioctl', errno, 'UFFDIO_WRITEPROTECT');
    }
  }

  /**
   * Takes the faults that wait, at most 64; none is not an error (poll(2) first).
   *
   * @param onFault gets the address of the fault, not rounded to a page
   */
  readFaults(onFault: (address: number, isWriteProtect: boolean) => void): void {
    const count = readInto(this.fd, this.#argumentsAddress + MESSAGES_AT, MAX_MESSAGES * MESSAGE_BYTES);
    if (count === WOULD_BLOCK) return;
    for (let at = MESSAGES_AT; at < MESSAGES_AT + count; at += MESSAGE_BYTES) {
      if (this.#view.getUint8(at) !== UFFD_EVENT_PAGEFAULT) continue;
      const flags = this.#view.getUint32(at + 8, true);
      const address = this.#view.getUint32(at + 20, true) * 2 ** 32 + this.#view.getUint32(at + 16, true);
      onFault(address, (flags & UFFD_PAGEFAULT_FLAG_WP) !== 0);
    }
  }

  /**
   * Gives the argument memory back. The opener's also closes the descriptor: registered ranges become ordinary memory.
   * May be called twice.
   */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    if (this.#isOpener) closeFd(this.fd);
    this.#arguments.unmap();
  }

  #setRange(address: bigint, lengthBytes: number): void {
    this.#view.setBigUint64(0, address, true);
    this.#view.setBigUint64(8, BigInt(lengthBytes), true);
  }

  /** A little-endian u64 from a safe integer; no bigint, since it runs once a page. */
  #setU64(at: number, value: number): void {
    this.#view.setUint32(at, value >>> 0, true);
    this.#view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
  }

  #ioctl(request: number, name: string): void {
    checked(ioctlCall(this.fd, request, this.#argumentsAddress), 'ioctl', name);
  }

  #place(request: number, name: string, address: number): Placement {
    for (;;) {
      if (ioctlCall(this.fd, request, this.#argumentsAddress) !== -1) return 'placed';
      const errno = lastErrno();
      if (errno === Errno.EEXIST) return 'exists';
      // EAGAIN: the address space was changing (another thread mapped something); nothing was placed.
      if (errno !== Errno.EAGAIN)
        throw new SyscallError('ioctl', errno, `${name} at 0x${address.toString(16)}`);
    }
  }
}

/** Non-blocking, since a fault can be gone between poll(2) and read(2); closed on exec. */
function openDescriptor(): number {
  const viaDevice = openViaDevice();
  if (viaDevice !== undefined) return viaDevice;
  const number = SYS_userfaultfd[process.arch];
  if (number === undefined) throw new SyscallError('userfaultfd', Errno.ENOSYS, `on ${process.arch}`);
  const all = Number(syscallNewUserfaultfd(number, constants.O_NONBLOCK | 0o2000000));
  if (all !== -1) return all;
  const userMode = Number(
    syscallNewUserfaultfd(number, constants.O_NONBLOCK | 0o2000000 | UFFD_USER_MODE_ONLY),
  );
  return checked(userMode, 'userfaultfd');
}

/** /dev/userfaultfd (Linux 6.1) opens to whoever its file permissions let, whatever the sysctl says. */
function openViaDevice(): number | undefined {
  let device: number;
  try {
    device = openSync('/dev/userfaultfd', constants.O_RDWR);
  } catch {
    return undefined;
  }
  const fd = ioctlCall(device, USERFAULTFD_IOC_NEW, constants.O_NONBLOCK | 0o2000000);
  closeSync(device);
  return fd === -1 ? undefined : fd;
}
