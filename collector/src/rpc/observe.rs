//! Lives: collector.
//! Called by: `weirctl observe` and other readers.
//! May touch: the store, a page at a time; what has left the memory is read from disk, where it is kept there.
//! Never: buffers for a slow reader. What has left the history before the reader came to it is counted as skipped (whether
//! it would have matched is not known then) and told with the next record, or at the end.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::watch;
use tokio::task::{spawn_blocking, yield_now};
use tonic::{Request, Response, Status};
use weir_proto::v1::flow_query_server::FlowQuery;
use weir_proto::v1::{CollectorStatusRequest, CollectorStatusResponse, FlowRecord, ObserveRequest, ObserveResponse};

use super::filter::Matcher;
use super::{Service, status};
use crate::history::Page;

/// Records taken from the history at a time: the lock is held for as long as that many pointers are copied.
const PAGE: usize = 512;

/// Records looked at at a time where they lie on disk: batches have up to 4,096, each of which is read once then, or twice.
const PAGE_ON_DISK: u64 = 8192;

#[tonic::async_trait]
impl FlowQuery for Service {
    type ObserveStream = Pin<Box<dyn Stream<Item = Result<ObserveResponse, Status>> + Send>>;

    async fn observe(&self, request: Request<ObserveRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let reader = Reader::new(self.clone(), request.into_inner()).await?;
        let stream = unfold(reader, |mut reader| async move { reader.next().await.map(|item| (item, reader)) });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn collector_status(
        &self,
        _: Request<CollectorStatusRequest>,
    ) -> Result<Response<CollectorStatusResponse>, Status> {
        let otlp = self.otlp.as_ref().map(|queue| queue.numbers());
        Ok(Response::new(status::response(self.store.summary(), otlp)))
    }
}

/// One reader and how far it has come.
struct Reader {
    service: Service,
    matcher: Matcher,
    end: watch::Receiver<u64>,
    /// Matching records that are ready to be sent.
    ready: VecDeque<Arc<FlowRecord>>,
    position: u64,
    /// Where to stop; `None` to follow.
    until: Option<u64>,
    skipped: u64,
}

impl Reader {
    async fn new(service: Service, request: ObserveRequest) -> Result<Self, Status> {
        let matcher = Matcher::new(request.filter, request.since_ns)?;
        let end_watch = service.store.watch();
        let (begin, end) = service.store.bounds();
        let only_new = request.follow && request.last == 0 && request.since_ns == 0;
        let until = (!request.follow).then_some(end);
        let mut reader =
            Self { service, matcher, end: end_watch, ready: VecDeque::new(), position: begin, until, skipped: 0 };
        if only_new || request.last > 0 {
            reader.position = end;
        }
        if request.last > 0 {
            reader.find_last(request.last, end).await?;
        }
        Ok(reader)
    }

    /// Collects the newest matching records before `end`, looking backwards.
    async fn find_last(&mut self, wanted: u64, end: u64) -> Result<(), Status> {
        let mut position = end;
        loop {
            let (begin, _) = self.service.store.bounds();
            let mut page = self.service.store.page_before(position, PAGE);
            if page.records.is_empty() && position > begin {
                // From here on they are on disk only.
                let from = position.saturating_sub(PAGE_ON_DISK).max(begin);
                page = self.past(from, position, usize::MAX).await?;
                page.next = from;
            } else if page.records.is_empty() {
                return Ok(());
            }
            for record in page.records.iter().rev().filter(|record| self.matcher.matches(record)) {
                self.ready.push_front(Arc::clone(record));
                if self.ready.len() as u64 >= wanted {
                    return Ok(());
                }
            }
            position = page.next;
            yield_now().await;
        }
    }

    async fn next(&mut self) -> Option<Result<ObserveResponse, Status>> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                let record = Some(FlowRecord::clone(&record));
                return Some(Ok(ObserveResponse { record, skipped: std::mem::take(&mut self.skipped) }));
            }
            if self.until.is_some_and(|until| self.position >= until) {
                return self.last_words().map(Ok);
            }
            let read = match self.read_page().await {
                Ok(read) => read,
                Err(status) => return Some(Err(status)),
            };
            if !read && !self.wait().await {
                return self.last_words().map(Ok);
            }
            // A long search that finds nothing must not keep others from running.
            yield_now().await;
        }
    }

    /// Reads on; false when there is nothing new.
    async fn read_page(&mut self) -> Result<bool, Status> {
        let until = self.until.unwrap_or(u64::MAX);
        let page = if self.service.store.is_past(self.position) {
            self.past(self.position, until, PAGE).await?
        } else {
            let left = usize::try_from(until.saturating_sub(self.position)).unwrap_or(PAGE);
            self.service.store.page(self.position, left.min(PAGE))
        };
        let new = page.next > self.position;
        self.position = page.next;
        self.skipped += page.missed;
        self.ready.extend(page.records.into_iter().filter(|record| self.matcher.matches(record)));
        Ok(new)
    }

    /// Reads from disk, outside the threads that serve.
    async fn past(&self, position: u64, until: u64, limit: usize) -> Result<Page<FlowRecord>, Status> {
        let (store, since_ns) = (Arc::clone(&self.service.store), self.matcher.since_ns());
        let page = spawn_blocking(move || store.past(position, until, limit, since_ns)).await;
        let page = page.map_err(io::Error::other).flatten();
        page.map_err(|error| Status::internal(format!("the history cannot be read from the disk: {error}")))
    }

    /// Waits for new records; false when the collector stops.
    async fn wait(&mut self) -> bool {
        let position = self.position;
        tokio::select! {
            more = self.end.wait_for(|end| *end > position) => more.is_ok(),
            () = self.service.stop.stopped() => false,
        }
    }

    /// Tells what was skipped after the last record, if anything was.
    fn last_words(&mut self) -> Option<ObserveResponse> {
        let skipped = std::mem::take(&mut self.skipped);
        (skipped > 0).then_some(ObserveResponse { record: None, skipped })
    }
}
