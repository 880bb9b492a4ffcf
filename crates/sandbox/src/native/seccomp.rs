//! The system-call filter of commands: everything is allowed but what could
//! reach the kernel beyond the sandbox, or undo it.
//!
//! Written by hand rather than with a crate, because a filter that allows by
//! default must also see through x32 numbers (same architecture, other
//! numbers) and foreign architectures.

use std::collections::BTreeMap;

use libc::sock_filter;

/// What a matched call gets.
#[derive(Clone, Copy)]
enum Deny {
    Errno(i32),
}

/// A condition on an argument (the lower 32 bits; flags and modes have no
/// more).
#[derive(Clone, Copy)]
enum Test {
    /// Any of these bits is set.
    AnyBit(u32),
    /// It equals one of these.
    OneOf(&'static [u32]),
    /// It equals none of these.
    NoneOf(&'static [u32]),
}

struct Rule {
    call: libc::c_long,
    /// All of these must hold: argument number, condition.
    when: &'static [(u32, Test)],
    deny: Deny,
}

const EPERM: Deny = Deny::Errno(libc::EPERM);
/// As on a kernel without the call, so that programs fall back.
const ENOSYS: Deny = Deny::Errno(libc::ENOSYS);

const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u32;
/// Only `unshare` takes this bit; in `clone` it is part of the exit signal.
const CLONE_NEWTIME: u32 = 0x80;

const SET_ID_BITS: u32 = libc::S_ISUID | libc::S_ISGID;

/// Flags of `open` with which its mode counts (`O_TMPFILE` without
/// `O_DIRECTORY`).
const CREATES: u32 = libc::O_CREAT as u32 | (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;

const SOCKET_FAMILIES: &[u32] = &[
    libc::AF_UNIX as u32,
    libc::AF_INET as u32,
    libc::AF_INET6 as u32,
    libc::AF_NETLINK as u32,
];

/// Terminal controls that put input into other processes' mouths or load
/// kernel modules.
const TERMINAL_CONTROLS: &[u32] = &[
    libc::TIOCSTI as u32,
    libc::TIOCLINUX as u32,
    libc::TIOCSETD as u32,
];

// Newer than the C library's names for them.
const SYS_FCHMODAT2: libc::c_long = 452;
const SYS_OPEN_TREE_ATTR: libc::c_long = 467;

const fn always(call: libc::c_long) -> Rule {
    Rule {
        call,
        when: &[],
        deny: EPERM,
    }
}

const fn missing(call: libc::c_long) -> Rule {
    Rule {
        call,
        when: &[],
        deny: ENOSYS,
    }
}

const fn when(call: libc::c_long, when: &'static [(u32, Test)]) -> Rule {
    Rule {
        call,
        when,
        deny: EPERM,
    }
}

const RULES: &[Rule] = &[
    // Namespaces: each brings a user's code to kernel paths meant for root.
    when(libc::SYS_clone, &[(0, Test::AnyBit(NEW_NAMESPACES))]),
    when(
        libc::SYS_unshare,
        &[(0, Test::AnyBit(NEW_NAMESPACES | CLONE_NEWTIME))],
    ),
    missing(libc::SYS_clone3), // its flags are behind a pointer
    always(libc::SYS_setns),
    // Mounts.
    always(libc::SYS_mount),
    always(libc::SYS_umount2),
    always(libc::SYS_pivot_root),
    always(libc::SYS_chroot),
    always(libc::SYS_move_mount),
    always(libc::SYS_open_tree),
    always(SYS_OPEN_TREE_ATTR),
    always(libc::SYS_fsopen),
    always(libc::SYS_fsconfig),
    always(libc::SYS_fsmount),
    always(libc::SYS_fspick),
    always(libc::SYS_mount_setattr),
    always(libc::SYS_open_by_handle_at),
    always(libc::SYS_swapon),
    always(libc::SYS_swapoff),
    always(libc::SYS_quotactl),
    always(libc::SYS_quotactl_fd),
    // Kernel interfaces with a large surface and no use in a test suite.
    always(libc::SYS_keyctl),
    always(libc::SYS_add_key),
    always(libc::SYS_request_key),
    always(libc::SYS_io_uring_setup),
    always(libc::SYS_io_uring_enter),
    always(libc::SYS_io_uring_register),
    always(libc::SYS_bpf),
    always(libc::SYS_perf_event_open),
    always(libc::SYS_userfaultfd),
    always(libc::SYS_fanotify_init),
    always(libc::SYS_lookup_dcookie),
    always(libc::SYS_nfsservctl),
    always(libc::SYS_vhangup),
    always(libc::SYS_syslog),
    always(libc::SYS_acct),
    // The machine.
    always(libc::SYS_kexec_load),
    always(libc::SYS_kexec_file_load),
    always(libc::SYS_init_module),
    always(libc::SYS_finit_module),
    always(libc::SYS_delete_module),
    always(libc::SYS_reboot),
    always(libc::SYS_settimeofday),
    always(libc::SYS_clock_settime),
    // Limits of other processes: init has the same uid.
    when(
        libc::SYS_prlimit64,
        &[(0, Test::NoneOf(&[0])), (2, Test::NoneOf(&[0]))],
    ),
    // Sockets of exotic families load kernel modules (vsock reaches the host).
    Rule {
        call: libc::SYS_socket,
        when: &[(0, Test::NoneOf(SOCKET_FAMILIES))],
        deny: Deny::Errno(libc::EAFNOSUPPORT),
    },
    Rule {
        call: libc::SYS_socket,
        when: &[
            (0, Test::OneOf(&[libc::AF_NETLINK as u32])),
            (2, Test::NoneOf(&[libc::NETLINK_ROUTE as u32])),
        ],
        deny: Deny::Errno(libc::EPROTONOSUPPORT),
    },
    when(libc::SYS_ioctl, &[(1, Test::OneOf(TERMINAL_CONTROLS))]),
];

/// Calls that only x86-64 has.
#[cfg(target_arch = "x86_64")]
const OLD_RULES: &[Rule] = &[
    always(libc::SYS_ioperm),
    always(libc::SYS_iopl),
    always(libc::SYS_uselib),
    always(libc::SYS_ustat),
    always(libc::SYS_sysfs),
    always(libc::SYS__sysctl),
    always(libc::SYS_modify_ldt),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_RULES: &[Rule] = &[];

/// Where directories of the host are written to: files with set-id bits would
/// lie there, owned by whoever owns the directory.
const SET_ID: &[Rule] = &[
    when(libc::SYS_fchmod, &[(1, Test::AnyBit(SET_ID_BITS))]),
    when(libc::SYS_fchmodat, &[(2, Test::AnyBit(SET_ID_BITS))]),
    when(SYS_FCHMODAT2, &[(2, Test::AnyBit(SET_ID_BITS))]),
    when(libc::SYS_mknodat, &[(2, Test::AnyBit(SET_ID_BITS))]),
    when(
        libc::SYS_openat,
        &[(2, Test::AnyBit(CREATES)), (3, Test::AnyBit(SET_ID_BITS))],
    ),
    missing(libc::SYS_openat2), // its mode is behind a pointer
];
#[cfg(target_arch = "x86_64")]
const OLD_SET_ID: &[Rule] = &[
    when(libc::SYS_chmod, &[(1, Test::AnyBit(SET_ID_BITS))]),
    when(libc::SYS_mknod, &[(1, Test::AnyBit(SET_ID_BITS))]),
    when(libc::SYS_creat, &[(1, Test::AnyBit(SET_ID_BITS))]),
    when(
        libc::SYS_open,
        &[(1, Test::AnyBit(CREATES)), (2, Test::AnyBit(SET_ID_BITS))],
    ),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_SET_ID: &[Rule] = &[];

/// Where no cgroup counts memory: files that live in memory and in no
/// process, so that adding up processes misses them.
const UNCOUNTED_MEMORY: &[Rule] = &[
    missing(libc::SYS_memfd_create),
    missing(libc::SYS_memfd_secret),
    missing(libc::SYS_shmget),
];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;

/// Numbers of the x32 ABI have this bit.
#[cfg(target_arch = "x86_64")]
const X32_BIT: Option<u32> = Some(0x4000_0000);
#[cfg(not(target_arch = "x86_64"))]
const X32_BIT: Option<u32> = None;

/// Compiled filters, made once per spawner.
pub struct Filters([Vec<sock_filter>; 4]);

impl Filters {
    /// Compiles them.
    pub fn build() -> Self {
        Self(std::array::from_fn(|variant| {
            compile(rules(variant & 1 != 0, variant & 2 != 0))
        }))
    }

    /// The filter for a sandbox: whether no cgroup counts its memory, and
    /// whether it writes to directories of the host.
    pub fn get(&self, uncounted_memory: bool, writes_to_host: bool) -> &[sock_filter] {
        &self.0[usize::from(uncounted_memory) + 2 * usize::from(writes_to_host)]
    }
}

fn rules(uncounted_memory: bool, writes_to_host: bool) -> impl Iterator<Item = &'static Rule> {
    let optional = |wanted: bool, rules: &'static [Rule]| if wanted { rules } else { &[] };
    RULES
        .iter()
        .chain(OLD_RULES)
        .chain(optional(uncounted_memory, UNCOUNTED_MEMORY))
        .chain(optional(writes_to_host, SET_ID))
        .chain(optional(writes_to_host, OLD_SET_ID))
}

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;

/// Binary search for the call number in ranges that are treated alike: the
/// kernel translates a filter for every command and tries it on every number
/// there is, and many programs make calls by the million.
fn compile(rules: impl Iterator<Item = &'static Rule>) -> Vec<sock_filter> {
    let mut calls: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
    for rule in rules {
        calls.entry(rule.call as u32).or_default().push(rule);
    }
    let mut program = Backwards::default();
    let allowed = program.push(RETURN, libc::SECCOMP_RET_ALLOW);
    let no_such_call = program.deny(ENOSYS);
    // The first number of each range, and where it is decided.
    let mut ranges = vec![(0, allowed)];
    for (number, rules) in calls {
        let decided = program.rules(&rules, allowed);
        ranges.pop_if(|&mut (first, _)| first == number);
        ranges.extend([(number, decided), (number + 1, allowed)]);
    }
    ranges.dedup_by_key(|&mut (_, decided)| decided);
    let mut start = program.search(&ranges);
    if let Some(bit) = X32_BIT {
        start = program.branch(JUMP_ANY_BIT, bit, no_such_call, start);
    }
    debug_assert_eq!(start, program.0.len() - 1);
    start = program.push(LOAD, OFFSET_NUMBER);
    program.branch(JUMP_EQUAL, ARCHITECTURE, start, no_such_call);
    program.push(LOAD, OFFSET_ARCHITECTURE);
    program.0.reverse();
    program.0
}

/// A program that is written from its end, as jumps only lead forward.
#[derive(Default)]
struct Backwards(Vec<sock_filter>);

/// An instruction, counted from the end.
type Place = usize;

impl Backwards {
    /// Something that no jump depends on; what was written before comes next.
    fn push(&mut self, code: u16, k: u32) -> Place {
        let (jt, jf) = (0, 0);
        self.0.push(sock_filter { code, jt, jf, k });
        self.0.len() - 1
    }

    fn branch(&mut self, code: u16, k: u32, yes: Place, no: Place) -> Place {
        let here = self.0.len();
        let distance = |to| u8::try_from(here - 1 - to).expect("the filter is small");
        let (jt, jf) = (distance(yes), distance(no));
        self.0.push(sock_filter { code, jt, jf, k });
        here
    }

    /// An end that denies, the same for all that deny alike.
    fn deny(&mut self, Deny::Errno(errno): Deny) -> Place {
        let result = libc::SECCOMP_RET_ERRNO | errno as u32;
        let known = self
            .0
            .iter()
            .position(|i| i.code == RETURN && i.k == result);
        known.unwrap_or_else(|| self.push(RETURN, result))
    }

    /// Decides a call whose number matched.
    fn rules(&mut self, rules: &[&Rule], allowed: Place) -> Place {
        rules.iter().rev().fold(allowed, |otherwise, rule| {
            let denied = self.deny(rule.deny);
            rule.when.iter().rev().fold(denied, |holds, condition| {
                self.condition(condition, holds, otherwise)
            })
        })
    }

    fn condition(&mut self, &(argument, test): &(u32, Test), yes: Place, no: Place) -> Place {
        match test {
            Test::AnyBit(bits) => self.branch(JUMP_ANY_BIT, bits, yes, no),
            Test::OneOf(values) => values.iter().rev().fold(no, |other, &value| {
                self.branch(JUMP_EQUAL, value, yes, other)
            }),
            Test::NoneOf(values) => values.iter().rev().fold(yes, |other, &value| {
                self.branch(JUMP_EQUAL, value, no, other)
            }),
        };
        self.push(LOAD, OFFSET_ARGUMENTS + 8 * argument)
    }

    fn search(&mut self, ranges: &[(u32, Place)]) -> Place {
        if let [(_, decided)] = ranges {
            return *decided;
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let (first, low, high) = (high[0].0, self.search(low), self.search(high));
        self.branch(JUMP_AT_LEAST, first, high, low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter as the kernel would.
    fn run(program: &[sock_filter], architecture: u32, number: i64, arguments: &[u64]) -> u32 {
        let load = |offset: u32| match offset {
            OFFSET_NUMBER => number as u32,
            OFFSET_ARCHITECTURE => architecture,
            _ => {
                let index = (offset - OFFSET_ARGUMENTS) as usize;
                assert_eq!(index % 8, 0);
                arguments.get(index / 8).copied().unwrap_or(0) as u32
            }
        };
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            let taken = match step.code {
                LOAD => {
                    accumulator = load(step.k);
                    continue;
                }
                RETURN => return step.k,
                JUMP_EQUAL => accumulator == step.k,
                JUMP_AT_LEAST => accumulator >= step.k,
                JUMP_ANY_BIT => accumulator & step.k != 0,
                other => panic!("unexpected code {other}"),
            };
            at += usize::from(if taken { step.jt } else { step.jf });
        }
    }

    fn verdict(number: i64, arguments: &[u64]) -> Option<i32> {
        let program = compile(rules(true, true));
        let result = run(&program, ARCHITECTURE, number, arguments);
        (result != libc::SECCOMP_RET_ALLOW).then_some((result & 0xffff) as i32)
    }

    /// What the rules say, one by one.
    fn expected(number: i64, arguments: [u64; 4]) -> Option<i32> {
        let holds = |&(argument, test): &(u32, Test)| {
            let value = arguments[argument as usize] as u32;
            match test {
                Test::AnyBit(bits) => value & bits != 0,
                Test::OneOf(values) => values.contains(&value),
                Test::NoneOf(values) => !values.contains(&value),
            }
        };
        rules(true, true)
            .find(|rule| rule.call == number && rule.when.iter().all(holds))
            .map(|Rule { deny, .. }| match deny {
                Deny::Errno(errno) => *errno,
            })
    }

    #[test]
    fn the_filter_is_the_rules() {
        let program = compile(rules(true, true));
        let values = [0, 1, 16, 0o4755, u64::from(NEW_NAMESPACES)];
        for number in 0..600 {
            for choice in 0..values.len().pow(4) {
                let arguments = [1, 5, 25, 125].map(|n| values[choice / n % 5]);
                let result = run(&program, ARCHITECTURE, number, &arguments);
                let denied = expected(number, arguments).map(|e| e as u32);
                let allowed = libc::SECCOMP_RET_ALLOW;
                let expected = denied.map_or(allowed, |e| libc::SECCOMP_RET_ERRNO | e);
                assert_eq!(result, expected, "{number} {arguments:?}");
            }
        }
    }

    #[test]
    fn allows_what_programs_need() {
        for number in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_ptrace,
            libc::SYS_futex,
        ] {
            assert_eq!(verdict(number, &[]), None, "{number}");
        }
        let threads = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND;
        assert_eq!(verdict(libc::SYS_clone, &[threads as u64]), None);
        assert_eq!(
            verdict(libc::SYS_unshare, &[libc::CLONE_FILES as u64]),
            None
        );
        for family in [
            libc::AF_UNIX,
            libc::AF_INET,
            libc::AF_INET6,
            libc::AF_NETLINK,
        ] {
            assert_eq!(verdict(libc::SYS_socket, &[family as u64, 3, 0]), None);
        }
        assert_eq!(verdict(libc::SYS_prlimit64, &[0, 7, 1]), None);
        assert_eq!(verdict(libc::SYS_prlimit64, &[1, 7, 0]), None);
        assert_eq!(verdict(libc::SYS_fchmod, &[3, 0o755]), None);
        let write = (libc::O_WRONLY | libc::O_CREAT) as u64;
        assert_eq!(verdict(libc::SYS_openat, &[0, 0, write, 0o644]), None);
        assert_eq!(verdict(libc::SYS_openat, &[0, 0, 0, 0o4755]), None);
        assert_eq!(verdict(libc::SYS_ioctl, &[0, libc::TIOCGWINSZ]), None);
        let filters = Filters::build();
        let set_id = [3, 0o4755];
        let run = |program| run(program, ARCHITECTURE, libc::SYS_fchmod, &set_id);
        assert_eq!(run(filters.get(true, false)), libc::SECCOMP_RET_ALLOW);
        assert_ne!(run(filters.get(false, true)), libc::SECCOMP_RET_ALLOW);
    }

    #[test]
    fn denies_what_leads_out() {
        for rule in rules(true, true).filter(|r| r.when.is_empty()) {
            assert!(verdict(rule.call, &[]).is_some(), "{}", rule.call);
        }
        for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET] {
            assert_eq!(verdict(libc::SYS_clone, &[flag as u64]), Some(libc::EPERM));
            assert_eq!(
                verdict(libc::SYS_unshare, &[flag as u64]),
                Some(libc::EPERM)
            );
        }
        for family in [
            libc::AF_VSOCK,
            libc::AF_ALG,
            libc::AF_PACKET,
            libc::AF_BLUETOOTH,
        ] {
            assert_eq!(
                verdict(libc::SYS_socket, &[family as u64]),
                Some(libc::EAFNOSUPPORT)
            );
        }
        let netlink = libc::AF_NETLINK as u64;
        assert_eq!(
            verdict(libc::SYS_socket, &[netlink, 3, libc::NETLINK_AUDIT as u64]),
            Some(libc::EPROTONOSUPPORT)
        );
        assert_eq!(verdict(libc::SYS_prlimit64, &[1, 7, 1]), Some(libc::EPERM));
        assert_eq!(verdict(libc::SYS_fchmod, &[3, 0o4755]), Some(libc::EPERM));
        let write = (libc::O_WRONLY | libc::O_CREAT) as u64;
        assert_eq!(
            verdict(libc::SYS_openat, &[0, 0, write, 0o2755]),
            Some(libc::EPERM)
        );
        // The upper half of the argument is not looked at, by us or the kernel.
        assert_eq!(
            verdict(libc::SYS_ioctl, &[0, 1 << 32 | libc::TIOCSTI]),
            Some(libc::EPERM)
        );
    }

    #[test]
    fn other_numbers_for_the_same_calls_do_not_exist() {
        let program = compile(rules(false, false));
        let enosys = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        assert_eq!(run(&program, 0x4000_0003, libc::SYS_read, &[]), enosys);
        if let Some(bit) = X32_BIT {
            let number = libc::SYS_mount | i64::from(bit);
            assert_eq!(run(&program, ARCHITECTURE, number, &[]), enosys);
        }
    }
}
