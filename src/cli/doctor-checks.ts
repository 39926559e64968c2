/**
 * What this host can do for migrations, found out by trying it.
 */
import { execFileSync } from 'node:child_process';
import { accessSync, constants, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { hostPageBytes, mapAnonymous } from '../linux/memory.ts';
import { PagemapScanner } from '../linux/pagemap.ts';
import { RegisterMode, UffdFeature, Userfaultfd } from '../linux/userfaultfd.ts';

export interface Check {
  /** Stable, for programs. */
  readonly name: string;
  readonly isOk: boolean;
  /** What was found. */
  readonly found: string;
  /** What that means for the user. */
  readonly meaning: string;
  /** Whether migration cannot work without it. */
  readonly isNeeded: boolean;
}

const PAGE_BYTES = 4096;
const MIN_NODE_MAJOR = 20;
const CAP_SYS_PTRACE = 19n;

export function checkHost(): Check[] {
  const dirtyAsync = checkDirtyAsync();
  const dirtySync = checkDirtySync(!dirtyAsync.isOk);
  return [
    checkKernel(),
    checkNode(),
    checkPageSize(),
    checkMissingFaults(),
    checkUserfaultfdDevice(),
    checkUserfaultfdSyscall(),
    checkUserfaultfdUserMode(),
    dirtyAsync,
    dirtySync,
    checkHugePages(),
    checkQemu(),
  ];
}

function checkKernel(): Check {
  return {
    name: 'kernel',
    isOk: process.platform === 'linux',
    found: `${process.platform} ${release()} ${process.arch}`,
    meaning: 'a Linux kernel is needed, on x86-64 or arm64',
    isNeeded: true,
  };
}

function checkNode(): Check {
  return {
    name: 'node',
    isOk: Number(process.versions.node.split('.')[0]) >= MIN_NODE_MAJOR,
    found: process.version,
    meaning: `Node.js ${MIN_NODE_MAJOR} or newer is needed`,
    isNeeded: true,
  };
}

function checkPageSize(): Check {
  return {
    name: 'page-size',
    isOk: hostPageBytes() === PAGE_BYTES,
    found: `${hostPageBytes()} bytes`,
    meaning: `pages of ${PAGE_BYTES} bytes are needed: nothing smaller than a page of the host can be missing`,
    isNeeded: true,
  };
}

/** Places a page in a registered range, as a destination does in postcopy. */
function checkMissingFaults(): Check {
  const failure = failureOf(() => {
    const uffd = Userfaultfd.open(0);
    const memory = mapAnonymous(PAGE_BYTES);
    try {
      uffd.register(memory.address, PAGE_BYTES, RegisterMode.MISSING);
      uffd.zeroPage(Number(memory.address), PAGE_BYTES);
    } finally {
      uffd.close();
      memory.unmap();
    }
  });
  return {
    name: 'userfaultfd',
    isOk: failure === undefined,
    found: failure ?? 'pages can be placed as they are touched',
    meaning:
      failure === undefined ? 'this host can be the destination of a postcopy' : 'no postcopy to this host',
    isNeeded: true,
  };
}

function checkUserfaultfdDevice(): Check {
  const failure = failureOf(() => accessSync('/dev/userfaultfd', constants.R_OK | constants.W_OK));
  return {
    name: 'userfaultfd-device',
    isOk: failure === undefined,
    found: failure ?? '/dev/userfaultfd can be opened',
    meaning: 'all page faults, by the permissions of the file; QEMU and KVM guests need this or the next',
    isNeeded: false,
  };
}

function checkUserfaultfdSyscall(): Check {
  const isPrivileged = hasCapability(CAP_SYS_PTRACE);
  const isOpenToAll = readSetting('/proc/sys/vm/unprivileged_userfaultfd') === '1';
  return {
    name: 'userfaultfd-syscall',
    isOk: isPrivileged || isOpenToAll,
    found: isPrivileged
      ? 'this process has CAP_SYS_PTRACE'
      : `vm.unprivileged_userfaultfd is ${isOpenToAll ? 1 : 'not 1, and this process lacks CAP_SYS_PTRACE'}`,
    meaning: 'all page faults, by the system call',
    isNeeded: false,
  };
}

/** The flag UFFD_USER_MODE_ONLY came with Linux 5.11. */
function checkUserfaultfdUserMode(): Check {
  const [major = 0, minor = 0] = release().split('.').map(Number);
  const hasUserfaultfd = readSetting('/proc/sys/vm/unprivileged_userfaultfd') !== undefined;
  const isOk = hasUserfaultfd && (major > 5 || (major === 5 && minor >= 11));
  return {
    name: 'userfaultfd-user-mode',
    isOk,
    found: isOk ? 'the kernel has it' : hasUserfaultfd ? 'needs Linux 5.11' : 'the kernel has no userfaultfd',
    meaning: 'page faults of user mode, without privileges: enough for the built-in machine',
    isNeeded: false,
  };
}

function checkDirtyAsync(): Check {
  const failure = failureOf(() => {
    const uffd = Userfaultfd.open(UffdFeature.WP_ASYNC | UffdFeature.PAGEFAULT_FLAG_WP);
    const memory = mapAnonymous(2 * PAGE_BYTES);
    const scanner = new PagemapScanner();
    try {
      uffd.register(memory.address, 2 * PAGE_BYTES, RegisterMode.WP);
      scanner.takeWritten(memory.address, 2 * PAGE_BYTES, () => {});
    } finally {
      scanner.close();
      uffd.close();
      memory.unmap();
    }
  });
  return {
    name: 'dirty-tracking-async',
    isOk: failure === undefined,
    found: failure ?? 'userfaultfd WP_ASYNC and PAGEMAP_SCAN',
    meaning: "the fast way to see a guest's writes (Linux 6.7)",
    isNeeded: false,
  };
}

function checkDirtySync(isNeeded: boolean): Check {
  const failure = failureOf(() => {
    const uffd = Userfaultfd.open(UffdFeature.PAGEFAULT_FLAG_WP);
    const memory = mapAnonymous(PAGE_BYTES);
    try {
      memory.bytes[0] = 1;
      uffd.register(memory.address, PAGE_BYTES, RegisterMode.WP);
      uffd.writeProtect(Number(memory.address), PAGE_BYTES, true);
      uffd.writeProtect(Number(memory.address), PAGE_BYTES, false);
    } finally {
      uffd.close();
      memory.unmap();
    }
  });
  return {
    name: 'dirty-tracking-sync',
    isOk: failure === undefined,
    found: failure ?? 'userfaultfd write protection',
    meaning: "the way of older kernels to see a guest's writes (Linux 5.7)",
    isNeeded,
  };
}

function checkHugePages(): Check {
  const setting = readSetting('/sys/kernel/mm/transparent_hugepage/enabled');
  const mode = setting?.match(/\[(\w+)\]/)?.[1] ?? 'not there';
  return {
    name: 'transparent-huge-pages',
    isOk: true,
    found: mode,
    meaning:
      mode === 'always'
        ? 'fine; the kernel may split huge pages of a guest while it moves, at some cost'
        : 'fine; guest memory is in small pages unless it asks for huge ones',
    isNeeded: false,
  };
}

function checkQemu(): Check {
  let found = 'no qemu-system-x86_64 in PATH';
  let isOk = false;
  try {
    const text = execFileSync('qemu-system-x86_64', ['--version'], { encoding: 'utf8', timeout: 5000 });
    found = text.split('\n')[0] ?? '';
    isOk = true;
  } catch {
    // Not there, or it does not run: the same for us.
  }
  return {
    name: 'qemu',
    isOk,
    found,
    meaning: 'for migrations between QEMU and this program',
    isNeeded: false,
  };
}

function failureOf(attempt: () => void): string | undefined {
  try {
    attempt();
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

function readSetting(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return undefined;
  }
}

function hasCapability(bit: bigint): boolean {
  const effective = readSetting('/proc/self/status')?.match(/^CapEff:\s*([0-9a-f]+)$/m)?.[1];
  return effective !== undefined && ((BigInt(`0x${effective}`) >> bit) & 1n) === 1n;
}
