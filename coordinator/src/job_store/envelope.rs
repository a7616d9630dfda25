//! What every record is wrapped in: whose it is, which of several versions, and a digest over all of it.
//!
//! ```text
//!   magic 8 │ schema 1 │ kind 1 │ zero 2 │ length 4 │ job 8 │ revision 8 │ payload │ BLAKE3 32      (little-endian)
//! ```
//!
//! Schema 1: job records as JSON, progress as raw bytes, files in sections. A field that is added to a job's record needs
//! a default there, or a new schema here.

use asyncdiff_plan::JobId;

use super::JobStoreError;

/// The newest schema that is understood.
pub(super) const SCHEMA: u8 = 1;

/// No text and no float begins like this, and neither does a page.
pub(super) const MAGIC: [u8; 8] = *b"\xADjob\x1A\n\x01\xDB";

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 32;

const DIGEST_BYTES: usize = blake3::OUT_LEN;

/// The longest payload: a picture of 8192 by 8192 pixels that does not compress, or a trace of some million events.
/// More would let a damaged length make us allocate it.
pub(super) const PAYLOAD_LIMIT: usize = 256 << 20;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Files = 3,
    Job = 1,
    Progress = 2,
}

/// What a record says before its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) job: JobId,
    /// Of two records of the same kind and job the larger one is the newer.
    pub(super) revision: u64,
    payload_bytes: usize,
}

impl Header {
    /// Reads the beginning of a record; none if it is not one of a schema that is known.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        let [schema, kind, 0, 0] = header[8..12] else { return None };
        if header[..8] != MAGIC || schema != SCHEMA {
            return None;
        }
        let kind = match kind {
            1 => Kind::Job,
            2 => Kind::Progress,
            3 => Kind::Files,
            _ => return None,
        };
        let payload_bytes = u32::from_le_bytes(header[12..16].try_into().ok()?) as usize;
        let number = |at: usize| header[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let (job, revision) = (JobId(number(16)?), number(24)?);
        (payload_bytes <= PAYLOAD_LIMIT).then_some(Self { kind, job, revision, payload_bytes })
    }

    /// Bytes of the whole record.
    pub(super) fn record_bytes(&self) -> usize {
        HEADER_BYTES + self.payload_bytes + DIGEST_BYTES
    }
}

/// Wraps a payload.
pub(super) fn wrap(kind: Kind, job: JobId, revision: u64, payload: &[u8]) -> Result<Vec<u8>, JobStoreError> {
    let too_long = || JobStoreError::TooLong { bytes: payload.len(), limit: PAYLOAD_LIMIT };
    let length = u32::try_from(payload.len()).map_err(|_| too_long())?;
    if payload.len() > PAYLOAD_LIMIT {
        return Err(too_long());
    }
    let mut record = Vec::with_capacity(HEADER_BYTES + payload.len() + DIGEST_BYTES);
    record.extend_from_slice(&MAGIC);
    record.extend_from_slice(&[SCHEMA, kind as u8, 0, 0]);
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&job.0.to_le_bytes());
    record.extend_from_slice(&revision.to_le_bytes());
    record.extend_from_slice(payload);
    let digest = blake3::hash(&record);
    record.extend_from_slice(digest.as_bytes());
    Ok(record)
}

/// Unwraps a record that fills `bytes`; none if anything about it is not as it was written.
pub(super) fn unwrap(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let header = Header::read(bytes)?;
    if bytes.len() != header.record_bytes() {
        return None;
    }
    let (content, digest) = bytes.split_at(bytes.len() - DIGEST_BYTES);
    (blake3::hash(content) == *digest.first_chunk::<DIGEST_BYTES>()?).then(|| (header, &content[HEADER_BYTES..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unnoticed() {
        let record = wrap(Kind::Progress, JobId(7), 3, b"latents").unwrap();
        let (header, payload) = unwrap(&record).unwrap();
        assert_eq!((header.kind, header.job, header.revision, payload), (Kind::Progress, JobId(7), 3, &b"latents"[..]));
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unwrap(&flipped), None, "bit {bit}");
        }
        for length in 0..record.len() {
            assert_eq!(unwrap(&record[..length]), None, "cut at {length}");
        }
    }
}
