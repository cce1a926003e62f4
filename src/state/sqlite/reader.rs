//! Connections that read, outside the async runtime.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use rusqlite::{Connection, OpenFlags};
use tokio::{sync::Semaphore, task};

use super::{connect, guard::Trust};
use crate::{state::Error, util::lock};

/// The number of concurrent reads.
const READERS: usize = 4;

/// Runs reads. A reader sees one point in time, and neither waits for the writer nor blocks it.
#[derive(Debug)]
pub(super) struct Readers {
    idle: Arc<Idle>,
    places: Arc<Semaphore>,
    trust: Arc<Trust>,
}

/// The idle connections. They are opened on first use.
#[derive(Debug)]
struct Idle {
    path: PathBuf,
    connections: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: &Path, trust: &Arc<Trust>) -> Self {
        let idle = Idle { path: path.to_owned(), connections: Mutex::default() };
        let places = Arc::new(Semaphore::new(READERS));
        Self { idle: Arc::new(idle), places, trust: trust.clone() }
    }

    /// Runs an operation that changes nothing. Fails if the state is not reliable.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let lost = || Error::Unusable("a reader was lost".to_owned());
        let place = self.places.clone().acquire_owned().await.map_err(|_| lost())?;
        self.trust.get()?;
        let (idle, trust) = (self.idle.clone(), self.trust.clone());
        let read = task::spawn_blocking(move || {
            // The permit must live here, because the read continues if its caller leaves.
            let _place = place;
            let db = idle.take()?;
            let result =
                operation(&*db.unchecked_transaction()?).inspect_err(|error| trust.record(error));
            idle.lock().push(db);
            result
        });
        read.await.map_err(|_| lost())?
    }
}

impl Idle {
    fn take(&self) -> Result<Connection, Error> {
        let idle = self.lock().pop();
        idle.map_or_else(|| connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY), Ok)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        lock(&self.connections)
    }
}
