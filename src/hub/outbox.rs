//! What waits to be sent to one client: a queue bounded in bytes, with one reader.
//!
//! Pushing never waits. A client that does not read what it is sent costs at most the bound, and then its connection.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::protocol::frame::Frame;

/// What a queued frame costs beside its bytes.
pub const FRAME_OVERHEAD: usize = 64;

/// The queue is shrunk when it runs empty with room for more frames than this.
const IDLE_FRAMES: usize = 16;

// === Outbox ===

/// A client's queue of frames.
pub struct Outbox {
    queue: Mutex<Queue>,
    bytes_max: usize,
}

struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    state: State,
    reader: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Takes no more; what is there is still read.
    Closed,
    /// Was over its bound; what was there is gone.
    Overflowed,
}

/// The queue was over its bound: it is closed, and what was in it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// What the reader found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Frames,
    /// Nothing is left and nothing will come.
    Closed,
    /// Closed, since the client did not keep up.
    Overflowed,
}

impl Outbox {
    /// `bytes_max` bounds the frames' bytes, each with [`FRAME_OVERHEAD`]. Exactly so much is taken; more only when one
    /// push brings it to a queue less than half full.
    pub fn new(bytes_max: usize) -> Self {
        let queue = Queue {
            frames: VecDeque::new(),
            bytes: 0,
            state: State::Open,
            reader: None,
        };
        Self {
            queue: Mutex::new(queue),
            bytes_max,
        }
    }

    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Queues a frame. On `Err` the queue has just been closed for being over its bound. Pushing to a closed queue
    /// does nothing.
    pub fn push(&self, frame: Frame) -> Result<(), Overflow> {
        self.push_all([frame])
    }

    /// Queues frames with none of another between them: a packet and its attachments.
    pub fn push_all(&self, frames: impl IntoIterator<Item = Frame>) -> Result<(), Overflow> {
        let mut queue = self.queue.lock();
        if queue.state != State::Open {
            return Ok(());
        }
        // The two answers to one message can be larger than the bound, and no sign of a client that does not read.
        let keeps_up = queue.bytes < self.bytes_max / 2;
        for frame in frames {
            queue.bytes += frame.len() + FRAME_OVERHEAD;
            queue.frames.push_back(frame);
        }
        let over = queue.bytes > self.bytes_max && !keeps_up;
        if over {
            queue.state = State::Overflowed;
            queue.frames = VecDeque::new();
            queue.bytes = 0;
        }
        wake(queue);
        if over { Err(Overflow) } else { Ok(()) }
    }

    /// Queues a frame that may be lost: false, and nothing queued, when the queue is more than a quarter full.
    pub fn push_volatile(&self, frame: Frame) -> bool {
        let mut queue = self.queue.lock();
        let cost = frame.len() + FRAME_OVERHEAD;
        if queue.state != State::Open || queue.bytes + cost > self.bytes_max / 4 {
            return false;
        }
        queue.bytes += cost;
        queue.frames.push_back(frame);
        wake(queue);
        true
    }

    /// Takes no more frames; the reader gets what is there, then [`Taken::Closed`].
    pub fn close(&self) {
        let mut queue = self.queue.lock();
        if queue.state == State::Open {
            queue.state = State::Closed;
        }
        wake(queue);
    }

    /// Takes no more frames and drops those that wait.
    pub fn abort(&self) {
        let mut queue = self.queue.lock();
        queue.frames = VecDeque::new();
        queue.bytes = 0;
        if queue.state == State::Open {
            queue.state = State::Closed;
        }
        wake(queue);
    }

    /// Wakes the reader, for it to look at something else than the queue.
    pub fn wake(&self) {
        wake(self.queue.lock());
    }

    /// Hands over frames in order, through `take`, until it declines one, which stays. Pending when there is nothing:
    /// `cx` is then woken by the next push or close. There is one reader: the last to have polled.
    #[inline]
    pub fn poll_take(
        &self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&Frame) -> bool,
    ) -> Poll<Taken> {
        let mut queue = self.queue.lock();
        if queue.frames.is_empty() {
            return match queue.state {
                State::Open => {
                    queue.register(cx);
                    Poll::Pending
                }
                State::Closed => Poll::Ready(Taken::Closed),
                State::Overflowed => Poll::Ready(Taken::Overflowed),
            };
        }
        while queue.frames.front().is_some_and(&mut take) {
            if let Some(frame) = queue.frames.pop_front() {
                queue.bytes -= frame.len() + FRAME_OVERHEAD;
            }
        }
        if queue.frames.is_empty() && queue.frames.capacity() > IDLE_FRAMES {
            queue.frames = VecDeque::new();
        }
        Poll::Ready(Taken::Frames)
    }

    /// Waits for the end only, for a reader that cannot take more: ready once the queue is over its bound, or closed
    /// with nothing left in it.
    pub fn poll_end(&self, cx: &mut Context<'_>) -> Poll<Taken> {
        let mut queue = self.queue.lock();
        match queue.state {
            State::Overflowed => Poll::Ready(Taken::Overflowed),
            State::Closed if queue.frames.is_empty() => Poll::Ready(Taken::Closed),
            State::Open | State::Closed => {
                queue.register(cx);
                Poll::Pending
            }
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.lock().frames.is_empty()
    }

    /// Whether more than half of the bound waits.
    pub fn is_pressed(&self) -> bool {
        self.queue.lock().bytes > self.bytes_max / 2
    }
}

impl Queue {
    fn register(&mut self, cx: &Context<'_>) {
        match &mut self.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            None => self.reader = Some(cx.waker().clone()),
        }
    }
}

/// Wakes outside the lock, so that the reader does not run into it.
fn wake(mut queue: parking_lot::MutexGuard<'_, Queue>) {
    let reader = queue.reader.take();
    drop(queue);
    if let Some(reader) = reader {
        reader.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;

    use super::*;

    fn frame(len: usize) -> Frame {
        Frame::text_from(&vec![b'x'; len])
    }

    fn take_all(outbox: &Outbox) -> (Poll<Taken>, usize) {
        let mut count = 0;
        let cx = &mut Context::from_waker(Waker::noop());
        let taken = outbox.poll_take(cx, |_| {
            count += 1;
            true
        });
        (taken, count)
    }

    #[test]
    fn exactly_the_bound_is_taken_and_a_byte_more_closes() {
        let cost = frame(100).len() + FRAME_OVERHEAD;
        let outbox = Outbox::new(2 * cost);
        assert_eq!(outbox.push(frame(100)), Ok(()));
        assert_eq!(outbox.push(frame(100)), Ok(()));
        assert_eq!(take_all(&outbox), (Poll::Ready(Taken::Frames), 2));
        assert_eq!(outbox.push(frame(100)), Ok(()));
        assert_eq!(outbox.push(frame(101)), Err(Overflow));
        assert_eq!(take_all(&outbox), (Poll::Ready(Taken::Overflowed), 0));
        assert_eq!(
            outbox.push(frame(1)),
            Ok(()),
            "a closed queue takes nothing, in silence"
        );
        assert!(outbox.is_empty());
    }

    #[test]
    fn one_push_to_a_queue_less_than_half_full_is_taken_whatever_its_size() {
        let outbox = Outbox::new(1_000);
        assert_eq!(outbox.push(frame(100)), Ok(()));
        assert_eq!(outbox.push_all([frame(5_000), frame(5_000)]), Ok(()));
        assert_eq!(outbox.push(frame(1)), Err(Overflow));
    }

    #[test]
    fn volatile_frames_leave_room_for_the_others() {
        let outbox = Outbox::new(4 * (frame(100).len() + FRAME_OVERHEAD));
        assert!(outbox.push_volatile(frame(100)));
        assert!(!outbox.push_volatile(frame(100)));
        assert_eq!(outbox.push(frame(100)), Ok(()));
    }

    #[test]
    fn a_closed_queue_is_read_to_its_end_and_an_aborted_one_is_not() {
        let outbox = Outbox::new(10_000);
        outbox.push(frame(1)).unwrap();
        outbox.close();
        outbox.push(frame(2)).unwrap();
        assert_eq!(take_all(&outbox), (Poll::Ready(Taken::Frames), 1));
        assert_eq!(take_all(&outbox), (Poll::Ready(Taken::Closed), 0));
        let outbox = Outbox::new(10_000);
        outbox.push(frame(1)).unwrap();
        outbox.abort();
        assert_eq!(take_all(&outbox), (Poll::Ready(Taken::Closed), 0));
    }

    #[test]
    fn a_reader_that_is_blocked_still_sees_the_end() {
        let cx = &mut Context::from_waker(Waker::noop());
        let outbox = Outbox::new(1000);
        outbox.push(frame(600)).unwrap();
        assert_eq!(outbox.poll_end(cx), Poll::Pending);
        outbox.push(frame(1000)).unwrap_err();
        assert_eq!(outbox.poll_end(cx), Poll::Ready(Taken::Overflowed));
        let outbox = Outbox::new(1000);
        outbox.push(frame(1)).unwrap();
        outbox.close();
        assert_eq!(
            outbox.poll_end(cx),
            Poll::Pending,
            "what is there is still to be read"
        );
        outbox.abort();
        assert_eq!(outbox.poll_end(cx), Poll::Ready(Taken::Closed));
    }

    #[tokio::test]
    async fn the_reader_is_woken_by_a_push() {
        let outbox = std::sync::Arc::new(Outbox::new(10_000));
        let reader = outbox.clone();
        let read = async move { poll_fn(|cx| reader.poll_take(cx, |_| true)).await };
        let push = async {
            tokio::task::yield_now().await;
            outbox.push(frame(1)).unwrap();
        };
        let both = futures_util::future::join(read, push);
        let taken = tokio::time::timeout(std::time::Duration::from_secs(10), both).await;
        assert_eq!(taken.unwrap().0, Taken::Frames);
    }

    proptest! {
        #[test]
        fn frames_come_out_in_order_whatever_the_reader_takes(
            steps in prop::collection::vec((0usize..5, 0usize..5), 1..40),
        ) {
            let outbox = Outbox::new(1 << 20);
            let (mut pushed, mut read) = (0usize, Vec::new());
            for (push, take) in steps {
                for _ in 0..push {
                    outbox.push(Frame::text_from(pushed.to_string().as_bytes())).unwrap();
                    pushed += 1;
                }
                let mut left = take;
                let _ = outbox.poll_take(&mut Context::from_waker(Waker::noop()), |frame| {
                    if left == 0 {
                        return false;
                    }
                    left -= 1;
                    read.push(std::str::from_utf8(frame.packet()).unwrap().parse::<usize>().unwrap());
                    true
                });
            }
            prop_assert_eq!(read.clone(), (0..read.len()).collect::<Vec<_>>());
        }
    }
}
