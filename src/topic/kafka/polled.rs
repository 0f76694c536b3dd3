//! A producer with a thread that takes its delivery reports.
//!
//! The client library has one of that kind, which polls ten times a second and spins through the last millisecond of
//! each poll: 1 % of a core for every producer that has nothing to do.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, ProducerContext};

/// How long the thread of a producer that was dropped may live on. The client library spins here as well, through the
/// last millisecond of a poll.
const POLL: Duration = Duration::from_secs(5);

/// Reports are handed to its context as they come. Dropped, it ends on its thread, which hears the last of them.
pub(super) struct Polled<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    is_over: Arc<AtomicBool>,
}

impl<C: ProducerContext + 'static> Polled<C> {
    pub fn start(settings: &ClientConfig, context: C) -> Result<Self, KafkaError> {
        let producer = BaseProducer::from_config_and_context(settings, context)?;
        let (producer, is_over) = (Arc::new(producer), Arc::new(AtomicBool::new(false)));
        let (polled, over) = (producer.clone(), is_over.clone());
        let poll = move || {
            while !over.load(Relaxed) {
                polled.poll(POLL);
            }
        };
        thread::Builder::new()
            .name("kafka-reports".to_owned())
            .spawn(poll)
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self { producer, is_over })
    }
}

impl<C: ProducerContext + 'static> Deref for Polled<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &Self::Target {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for Polled<C> {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
    }
}
