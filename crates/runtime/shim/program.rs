//! Reads programs: bounds-checked access to the steps of a launch program and to their fields.

use core::ffi::CStr;

/// Not a program, or a field that does not fit in it.
pub struct Malformed;

/// The fields of one step, read in order.
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        if count > self.rest.len() {
            return Err(Malformed);
        }
        let (head, tail) = self.rest.split_at(count);
        self.rest = tail;
        Ok(head)
    }
    /// The next number.
    pub fn number(&mut self) -> Result<u64, Malformed> {
        let mut le = [0u8; 8];
        le.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(le))
    }
    /// The next byte string; every field is padded to 8 bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.number()?).map_err(|_| Malformed)?;
        let padded = length.checked_add(7).ok_or(Malformed)? & !7;
        self.take(padded)?.get(..length).ok_or(Malformed)
    }
    /// The next string, which carries its terminator and no other.
    pub fn text(&mut self) -> Result<&'a CStr, Malformed> {
        CStr::from_bytes_with_nul(self.bytes()?).map_err(|_| Malformed)
    }
}

/// One step.
pub struct Step<'a> {
    pub operation: u16,
    pub flags: u16,
    pub fields: Fields<'a>,
}

/// The steps of a program.
pub struct Steps<'a> {
    rest: Fields<'a>,
}

impl<'a> Steps<'a> {
    /// Checks the header; `None` if it is not a program of this version.
    pub fn new(program: &'a [u8], magic: u32, version: u32) -> Option<Steps<'a>> {
        let mut rest = Fields { rest: program };
        let head = rest.number().ok()?;
        let length = rest.number().ok()?;
        let right = head == (u64::from(magic) | u64::from(version) << 32) && length == program.len() as u64;
        right.then_some(Steps { rest })
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = Result<Step<'a>, Malformed>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.rest.is_empty() {
            return None;
        }
        let step = (|| {
            let head = self.rest.number()?;
            let payload = self.rest.bytes()?;
            Ok(Step { operation: head as u16, flags: (head >> 16) as u16, fields: Fields { rest: payload } })
        })();
        if step.is_err() {
            self.rest.rest = &[];
        }
        Some(step)
    }
}
