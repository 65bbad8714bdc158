//! What agent and guard say to each other: records of 32 bytes over a `SOCK_SEQPACKET` socket, one in each packet.
//!
//! Fixed and small, so that neither side allocates to say or to understand something. Both are nearly always the same
//! program; magic and version are there for the guard that runs in a unit of its own while the agent is upgraded.
//! Deliberately not here: who says what when.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    io::{self, Errno},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};

use super::MAX_FILE_SYSTEMS;

const MAGIC: [u8; 4] = *b"MFRZ";
const VERSION: u16 = 1;
pub(super) const RECORD: usize = 32;
/// The file systems, and the record of what is frozen.
pub(super) const MAX_DESCRIPTORS: usize = MAX_FILE_SYSTEMS + 1;
const CONTROL: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Kind {
    /// Guard: it can be asked now. `number` holds the bits of `Protection`.
    Ready = 1,
    /// Agent: hold these file systems, whose descriptors come with it, and be ready to thaw them. `number`: the limit.
    Arm,
    /// Guard: they are held. `errno` where not.
    Armed,
    /// Agent: freeze the file system `index`.
    Freeze,
    /// Guard: it is frozen. `errno` where not.
    Frozen,
    /// Agent: thaw all that is frozen and let go of all that is held.
    Disarm,
    /// Guard: done. `number`: for how long something was frozen; `errno` where not all was as it should be.
    Disarmed,
}

const KINDS: [Kind; 7] =
    [Kind::Ready, Kind::Arm, Kind::Armed, Kind::Freeze, Kind::Frozen, Kind::Disarm, Kind::Disarmed];

/// One thing said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    /// Which freeze this is about; an answer repeats that of its question, so that a late one is known for what it is.
    pub(super) cycle: u64,
    /// Which of the file systems, in the order of freezing.
    pub(super) index: u32,
    /// 0, or what the system said.
    pub(super) errno: i32,
    /// As the kind says; times in nanoseconds.
    pub(super) number: u64,
}

impl Record {
    pub(super) fn new(kind: Kind, cycle: u64) -> Record {
        Record { kind, cycle, index: 0, errno: 0, number: 0 }
    }

    pub(super) fn time(&self) -> Duration {
        Duration::from_nanos(self.number)
    }

    pub(super) fn encode(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.index.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.errno.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..].copy_from_slice(&self.cycle.to_le_bytes());
        bytes
    }

    /// `None` for anything that is not a record of this version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Record> {
        let bytes: &[u8; RECORD] = bytes.try_into().ok()?;
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        let (index, rest) = rest.split_first_chunk()?;
        let (errno, rest) = rest.split_first_chunk()?;
        let (number, cycle) = rest.split_first_chunk()?;
        let kind = KINDS.into_iter().find(|kind| {
            let head_of = Record::new(*kind, 0).encode();
            head_of[..8] == head[..]
        })?;
        Some(Record {
            kind,
            cycle: u64::from_le_bytes(cycle.try_into().ok()?),
            index: u32::from_le_bytes(*index),
            errno: i32::from_le_bytes(*errno),
            number: u64::from_le_bytes(*number),
        })
    }
}

/// Says `record`, and hands `descriptors` over with it. Never waits: a socket that is full of what the other side does not
/// read is an error.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    record: &Record,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::INVAL);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(&record.encode())], &mut control, flags).map(drop)
}

/// What was received.
pub(super) enum Received {
    /// The other side is gone.
    End,
    /// Something that is not a record, or more descriptors than there may be.
    Strange,
    /// A record. Its descriptors were put into the array that was given.
    Record(Record),
}

/// Takes the next record; `descriptors` is emptied first. `EAGAIN` where there is none.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    descriptors: &mut [Option<OwnedFd>; MAX_DESCRIPTORS],
) -> io::Result<Received> {
    descriptors.iter_mut().for_each(|slot| *slot = None);
    let (mut space, mut bytes) = ([MaybeUninit::uninit(); CONTROL], [0; RECORD + 1]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let mut count = 0;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            for descriptor in received {
                // One that finds no place is closed here.
                if let Some(slot) = descriptors.get_mut(count) {
                    *slot = Some(descriptor);
                }
                count += 1;
            }
        }
    }
    if got.bytes == 0 {
        return Ok(Received::End);
    }
    let whole = !got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) && count <= MAX_DESCRIPTORS;
    let record = Record::decode(&bytes[..got.bytes]).filter(|_| whole);
    Ok(record.map_or(Received::Strange, Received::Record))
}

/// What [`receive`] puts descriptors into.
pub(super) fn no_descriptors() -> [Option<OwnedFd>; MAX_DESCRIPTORS] {
    [const { None }; MAX_DESCRIPTORS]
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn a_record_survives_the_way() {
        for kind in KINDS {
            let record = Record { kind, cycle: u64::MAX - 3, index: 7, errno: -5, number: 1 << 40 };
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
    }

    #[test]
    fn what_is_damaged_is_no_record() {
        let good = Record::new(Kind::Arm, 9).encode();
        for at in 0..8 {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert_eq!(Record::decode(&bad), None, "byte {at}");
        }
        assert_eq!(Record::decode(&good[..31]), None);
        assert_eq!(Record::decode(&[]), None);
    }

    #[test]
    fn as_many_descriptors_as_there_may_be_arrive_and_no_more() {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let mut room = no_descriptors();
        let all = [a.as_fd(); MAX_DESCRIPTORS];
        send(a.as_fd(), &Record::new(Kind::Arm, 1), &all).unwrap();
        assert!(matches!(receive(b.as_fd(), &mut room), Ok(Received::Record(_))));
        assert!(room.iter().all(Option::is_some));
        send(a.as_fd(), &Record::new(Kind::Arm, 2), &[]).unwrap();
        assert!(matches!(receive(b.as_fd(), &mut room), Ok(Received::Record(_))));
        assert!(room.iter().all(Option::is_none));
        // A few more may find room by alignment, and are refused by the receiver; many more find none.
        let _ = send(a.as_fd(), &Record::new(Kind::Arm, 3), &[a.as_fd(); MAX_DESCRIPTORS + 1]);
        assert!(!matches!(receive(b.as_fd(), &mut room), Ok(Received::Record(_))));
        assert!(send(a.as_fd(), &Record::new(Kind::Arm, 4), &[a.as_fd(); 2 * MAX_DESCRIPTORS]).is_err());
        room = no_descriptors();
        drop(a);
        assert!(matches!(receive(b.as_fd(), &mut room), Ok(Received::End)));
    }
}
