//! Raw TCP: asks the backend for many bytes, and takes them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Work;
use super::stream::{Failure, Stream, Target};

/// Asks for `size` bytes over and over: a number of 8 bytes, big end first, answered by as many bytes.
pub(crate) struct Bulk {
    target: Target,
    source: usize,
    size: u64,
    stream: Option<Stream>,
    buffer: Vec<u8>,
}

impl Bulk {
    pub(crate) fn new(target: &Target, source: usize, size: u64) -> Self {
        Self { target: target.clone(), source, size, stream: None, buffer: vec![0; 256 * 1024] }
    }
}

impl Work for Bulk {
    async fn ready(&mut self) -> Result<(), Failure> {
        if self.stream.is_none() {
            self.stream = Some(self.target.connect(self.source).await?);
        }
        Ok(())
    }

    async fn once(&mut self) -> Result<u64, Failure> {
        self.ready().await?;
        let mut stream = self.stream.take().ok_or(Failure::from("no connection"))?;
        stream.write_all(&self.size.to_be_bytes()).await?;
        stream.flush().await?;
        let mut left = self.size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let count = stream.read(&mut self.buffer[..most]).await?;
            if count == 0 {
                return Err("closed within the bytes".into());
            }
            left -= count as u64;
        }
        self.stream = Some(stream);
        Ok(self.size)
    }
}
