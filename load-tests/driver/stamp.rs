//! The number and the time that ride in every event, and the books of which numbers came.

/// `NNNNNNNNNN:TTTTTTTTTTTTTTT`: number and nanoseconds.
pub const STAMP_BYTES: usize = 26;
pub const NUMBER_DIGITS: usize = 10;
const TIME_DIGITS: usize = 15;

pub fn push_stamp(out: &mut Vec<u8>, number: u64, nanos: u64) {
    push_digits::<NUMBER_DIGITS>(out, number);
    out.push(b':');
    push_digits::<TIME_DIGITS>(out, nanos);
}

/// Number and time at the head of `text`.
pub fn read_stamp(text: &[u8]) -> Option<(u64, u64)> {
    let stamp = text.get(..STAMP_BYTES)?;
    let number = digits(&stamp[..NUMBER_DIGITS])?;
    let nanos = digits(&stamp[NUMBER_DIGITS + 1..])?;
    Some((number, nanos))
}

pub fn push_digits<const N: usize>(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits);
}

fn digits(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |number, digit| {
        digit
            .is_ascii_digit()
            .then(|| number * 10 + u64::from(digit - b'0'))
    })
}

// === Marks ===

/// Which numbers came, one bit each.
#[derive(Debug, Default)]
pub struct Marks {
    bits: Vec<u64>,
    next: u64,
    pub count: u64,
    pub doubled: u64,
    /// Came after a higher number.
    pub reordered: u64,
}

impl Marks {
    /// True when it came for the first time.
    pub fn mark(&mut self, number: u64) -> bool {
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit != 0 {
            self.doubled += 1;
            return false;
        }
        self.bits[word] |= bit;
        self.count += 1;
        self.reordered += u64::from(number < self.next);
        self.next = self.next.max(number + 1);
        true
    }

    /// How many of these `other` lacks.
    pub fn missing_in(&self, other: &Marks) -> u64 {
        let theirs = other.bits.iter().copied().chain(std::iter::repeat(0));
        let missing = self
            .bits
            .iter()
            .zip(theirs)
            .map(|(ours, theirs)| ours & !theirs);
        missing.map(|bits| u64::from(bits.count_ones())).sum()
    }
}
