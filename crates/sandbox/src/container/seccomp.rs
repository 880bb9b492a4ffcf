//! The system-call filter, in the engines' words: the same denials as the
//! native backend's (`native/seccomp.rs`).

use serde_json::{Value, json};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EPROTONOSUPPORT: u32 = 93;
const EAFNOSUPPORT: u32 = 97;

/// Calls that are refused whatever their arguments.
const REFUSED: &[&str] = &[
    // Namespaces and mounts.
    "setns",
    "mount",
    "umount",
    "umount2",
    "pivot_root",
    "chroot",
    "move_mount",
    "open_tree",
    "open_tree_attr",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "open_by_handle_at",
    "swapon",
    "swapoff",
    "quotactl",
    "quotactl_fd",
    // Kernel interfaces with a large surface and no use in a test suite.
    "keyctl",
    "add_key",
    "request_key",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "fanotify_init",
    "lookup_dcookie",
    "nfsservctl",
    "vhangup",
    "syslog",
    "acct",
    // The machine.
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "reboot",
    "settimeofday",
    "clock_settime",
    "ioperm",
    "iopl",
    "uselib",
    "ustat",
    "sysfs",
    "_sysctl",
    "modify_ldt",
];

/// Mount, cgroup, uts, ipc, user, pid and network namespaces, as `clone` flags.
const NAMESPACES: [u64; 7] = [
    0x0002_0000,
    0x0200_0000,
    0x0400_0000,
    0x0800_0000,
    0x1000_0000,
    0x2000_0000,
    0x4000_0000,
];
/// Only `unshare` takes this one.
const TIME_NAMESPACE: u64 = 0x80;

/// Unix, IPv4, IPv6 and netlink sockets.
const FAMILIES: [u64; 4] = [1, 2, 10, NETLINK];
const NETLINK: u64 = 16;
/// Families from here on are refused without being listed.
const FAMILIES_LISTED: u64 = 46;

/// `TIOCSTI`, `TIOCLINUX`, `TIOCSETD`.
const TERMINAL_CONTROLS: [u64; 3] = [0x5412, 0x541C, 0x5423];

/// Arguments that the kernel takes as 32 bits.
const LOW_HALF: u64 = 0xFFFF_FFFF;

/// Set-user-id and set-group-id bits of a mode.
const SET_ID: [u64; 2] = [0o4000, 0o2000];
/// Flags of `open` with which its mode counts: `O_CREAT`, and `O_TMPFILE`
/// without `O_DIRECTORY`.
const CREATES: [u64; 2] = [0o100, 0o20_000_000];

/// Calls that take a mode, and the number of that argument.
const MODES: [(&[&str], u32); 2] = [
    (&["chmod", "fchmod", "creat", "mknod"], 1),
    (&["fchmodat", "fchmodat2", "mknodat"], 2),
];
/// Calls that open: numbers of their flags and mode.
const OPENS: [(&[&str], u32, u32); 2] = [(&["open"], 1, 2), (&["openat"], 2, 3)];

/// The profile, as JSON that `--security-opt seccomp=` takes. Where
/// directories of the host are written to, no set-id bits can be made.
pub fn profile(writes_to_host: bool) -> String {
    let mut rules = vec![
        rule(REFUSED, EPERM, &[]),
        // Its flags are behind a pointer: programs fall back on `clone`.
        rule(&["clone3"], ENOSYS, &[]),
        rule(&["unshare"], EPERM, &[any_bit(0, TIME_NAMESPACE)]),
        // Limits of other processes.
        rule(&["prlimit64"], EPERM, &[differs(0, 0), differs(2, 0)]),
        rule(
            &["socket"],
            EPROTONOSUPPORT,
            &[equals(0, NETLINK), differs(2, 0)],
        ),
        rule(
            &["socket"],
            EAFNOSUPPORT,
            &[test(0, "SCMP_CMP_GE", FAMILIES_LISTED, 0)],
        ),
    ];
    for flag in NAMESPACES {
        rules.push(rule(&["clone", "unshare"], EPERM, &[any_bit(0, flag)]));
    }
    for family in (0..FAMILIES_LISTED).filter(|f| !FAMILIES.contains(f)) {
        rules.push(rule(&["socket"], EAFNOSUPPORT, &[equals(0, family)]));
    }
    for control in TERMINAL_CONTROLS {
        rules.push(rule(&["ioctl"], EPERM, &[equals(1, control)]));
    }
    if writes_to_host {
        rules.extend(set_id_rules());
    }
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ARCHITECTURES,
        "syscalls": rules,
    })
    .to_string()
}

fn set_id_rules() -> Vec<Value> {
    // Its mode is behind a pointer.
    let mut rules = vec![rule(&["openat2"], ENOSYS, &[])];
    for bit in SET_ID {
        for (names, mode) in MODES {
            rules.push(rule(names, EPERM, &[any_bit(mode, bit)]));
        }
        for ((names, flags, mode), creates) in
            OPENS.iter().flat_map(|open| CREATES.map(|c| (open, c)))
        {
            let args = [any_bit(*flags, creates), any_bit(*mode, bit)];
            rules.push(rule(names, EPERM, &args));
        }
    }
    rules
}

/// The x32 numbers of the same calls are filtered too; calls of any other
/// architecture kill, as one call makes sockets of all families there.
const ARCHITECTURES: &[&str] = if cfg!(target_arch = "aarch64") {
    &["SCMP_ARCH_AARCH64"]
} else {
    &["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]
};

fn rule(names: &[&str], errno: u32, args: &[Value]) -> Value {
    json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args })
}

fn test(index: u32, op: &str, value: u64, other: u64) -> Value {
    json!({ "index": index, "value": value, "valueTwo": other, "op": op })
}

fn equals(index: u32, value: u64) -> Value {
    test(index, "SCMP_CMP_MASKED_EQ", LOW_HALF, value)
}

fn differs(index: u32, value: u64) -> Value {
    test(index, "SCMP_CMP_NE", value, 0)
}

fn any_bit(index: u32, bit: u64) -> Value {
    test(index, "SCMP_CMP_MASKED_EQ", bit, bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespace_and_foreign_family_is_refused() {
        let profile: Value = serde_json::from_str(&profile(false)).unwrap();
        let rules = profile["syscalls"].as_array().unwrap();
        let of = |name: &str| {
            rules
                .iter()
                .filter(|r| r["names"].as_array().unwrap().contains(&json!(name)))
                .count()
        };
        assert_eq!(of("clone"), 7);
        assert_eq!(of("unshare"), 8);
        assert_eq!(of("socket"), 46 - 4 + 2);
        assert_eq!(of("mount"), 1);
        assert!(rules.iter().all(|r| r["action"] == "SCMP_ACT_ERRNO"));
        assert_eq!(of("fchmod"), 0);
    }

    #[test]
    fn set_id_bits_are_refused_where_the_host_is_written_to() {
        let text = profile(true);
        let both: Value = serde_json::from_str(&text).unwrap();
        let of = |name: &str| text.matches(&format!("\"{name}\"")).count();
        assert_eq!((of("fchmod"), of("openat"), of("openat2")), (2, 4, 1));
        // Two conditions on two arguments: engines join them with `and`.
        let opens = both["syscalls"].as_array().unwrap().iter();
        let opens = opens.filter(|r| r["names"] == json!(["openat"]));
        assert!(
            opens
                .clone()
                .all(|r| r["args"][0]["index"] != r["args"][1]["index"])
        );
    }
}
