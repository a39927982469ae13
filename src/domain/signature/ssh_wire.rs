//! The data types of the ssh protocol (RFC 4251, section 5), read from and written to bytes.

/// Reads one value after the other; `None` from any method: the bytes end too early, or a value is not valid.
pub(super) struct SshReader<'a>(&'a [u8]);

impl<'a> SshReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub(super) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn uint32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.uint32()?;
        self.take(usize::try_from(length).ok()?)
    }

    /// A positive `mpint`, without its leading zeros.
    pub(super) fn positive(&mut self) -> Option<&'a [u8]> {
        let bytes = self.string()?;
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        // A first bit that is set makes the number negative.
        let is_negative = bytes.first().is_some_and(|&first| first & 0x80 != 0);
        let number = bytes.get(zeros..)?;
        (!is_negative && !number.is_empty()).then_some(number)
    }
}

/// Appends `bytes` as a `string`.
pub(super) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    // What is written here is a few hundred bytes.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend(length.to_be_bytes());
    out.extend(bytes);
}
