//! Relaxes the version requirements of an ELF file: a requirement marked weak
//! makes the dynamic linker warn instead of giving up. Called while the
//! bundled binaries are unpacked; refuses what is not a well-formed 64-bit
//! little-endian ELF file, and touches nothing but that one flag.

/// `PT_LOAD` and `PT_DYNAMIC` program headers.
const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
/// Dynamic entries: string table, version needs, and how many.
const STRING_TABLE: u64 = 5;
const VERSION_NEEDS: u64 = 0x6fff_fffe;
const VERSION_NEED_COUNT: u64 = 0x6fff_ffff;
/// `VER_FLG_WEAK`.
const WEAK: u16 = 2;

/// Whether the bytes begin like an ELF file.
pub(super) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// Marks weak every needed version `GLIBC_<major>.<minor>` that is newer than
/// `glibc`. Returns how many there were, `None` if the file is malformed.
pub(super) fn weaken_newer_glibc(bytes: &mut [u8], glibc: (u32, u32)) -> Option<usize> {
    // 64 bits, little endian.
    if !is_elf(bytes) || bytes.get(4..6)? != [2, 1] {
        return None;
    }
    let segments = segments(bytes)?;
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == DYNAMIC) else {
        return Some(0);
    };
    let entry = |wanted| dynamic_entry(bytes, dynamic, wanted);
    let (Some(needs), Some(count)) = (entry(VERSION_NEEDS), entry(VERSION_NEED_COUNT)) else {
        return Some(0);
    };
    let strings = file_offset(&segments, entry(STRING_TABLE)?)?;
    let mut need = file_offset(&segments, needs)?;
    let mut too_new = Vec::new();
    for _ in 0..count {
        let versions = u16_at(bytes, need + 2)?;
        let mut version = need + usize::try_from(u32_at(bytes, need + 8)?).ok()?;
        for _ in 0..versions {
            let name = strings + usize::try_from(u32_at(bytes, version + 8)?).ok()?;
            if glibc_version(bytes, name).is_some_and(|needed| needed > glibc) {
                too_new.push(version + 4);
            }
            version += usize::try_from(u32_at(bytes, version + 12)?).ok()?;
        }
        need += usize::try_from(u32_at(bytes, need + 12)?).ok()?;
    }
    for flags in &too_new {
        let weak = u16_at(bytes, *flags)? | WEAK;
        bytes.get_mut(*flags..*flags + 2)?.copy_from_slice(&weak.to_le_bytes());
    }
    Some(too_new.len())
}

struct Segment {
    kind: u32,
    offset: usize,
    address: u64,
    length: u64,
}

fn segments(bytes: &[u8]) -> Option<Vec<Segment>> {
    let table = usize::try_from(u64_at(bytes, 32)?).ok()?;
    let size = usize::from(u16_at(bytes, 54)?);
    let count = usize::from(u16_at(bytes, 56)?);
    (0..count)
        .map(|index| {
            let at = table.checked_add(index * size)?;
            Some(Segment {
                kind: u32_at(bytes, at)?,
                offset: usize::try_from(u64_at(bytes, at + 8)?).ok()?,
                address: u64_at(bytes, at + 16)?,
                length: u64_at(bytes, at + 32)?,
            })
        })
        .collect()
}

fn dynamic_entry(bytes: &[u8], dynamic: &Segment, wanted: u64) -> Option<u64> {
    let entries = usize::try_from(dynamic.length / 16).ok()?;
    (0..entries).find_map(|index| {
        let at = dynamic.offset + index * 16;
        (u64_at(bytes, at)? == wanted).then(|| u64_at(bytes, at + 8))?
    })
}

fn file_offset(segments: &[Segment], address: u64) -> Option<usize> {
    segments.iter().filter(|segment| segment.kind == LOAD).find_map(|segment| {
        let into = address.checked_sub(segment.address)?;
        (into < segment.length).then_some(())?;
        segment.offset.checked_add(usize::try_from(into).ok()?)
    })
}

fn glibc_version(bytes: &[u8], name: usize) -> Option<(u32, u32)> {
    let name = bytes.get(name..)?.split(|byte| *byte == 0).next()?;
    let version = std::str::from_utf8(name).ok()?.strip_prefix("GLIBC_")?;
    let (major, minor) = version.split_once('.')?;
    let minor = minor.split('.').next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::weaken_newer_glibc;

    /// This very program is an ELF file that needs some glibc.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn changes_flags_of_versions_that_are_too_new_and_nothing_else() {
        let original = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let mut same = original.clone();
        assert_eq!(weaken_newer_glibc(&mut same, (9, 9)), Some(0));
        assert!(same == original, "nothing is newer than 9.9");

        let mut weak = original.clone();
        let count = weaken_newer_glibc(&mut weak, (2, 0)).unwrap();
        assert!(count > 0);
        let changed = original.iter().zip(&weak).filter(|(before, after)| before != after);
        assert_eq!(changed.count(), count, "one byte for each version");
    }

    #[test]
    fn refuses_what_is_no_elf_file() {
        assert_eq!(weaken_newer_glibc(&mut [], (2, 36)), None);
        assert_eq!(weaken_newer_glibc(&mut b"#!/bin/sh\n".to_vec(), (2, 36)), None);
        assert_eq!(weaken_newer_glibc(&mut b"\x7fELF\x02\x01\x01".to_vec(), (2, 36)), None);
    }
}
