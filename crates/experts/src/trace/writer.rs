//! Writes a trace while a model runs.

use std::io::{self, BufWriter, Write};

use super::{Head, write_lines};

/// Where choices go. They are written in whole layers, so what a killed program leaves behind ends with a whole line.
/// The last of them are written by [`finish`](Writer::finish), or when the writer goes.
pub struct Writer {
    out: BufWriter<Box<dyn Write + Send>>,
    head: Head,
    batch: u64,
    /// The layer that came last.
    last: Option<usize>,
    /// The first failure.
    failed: Option<io::Error>,
    lines: String,
}

impl Writer {
    /// Begins a trace.
    ///
    /// # Errors
    /// What writing reports; `InvalidInput` where no model has such numbers.
    pub fn create(out: impl Write + Send + 'static, head: Head) -> io::Result<Writer> {
        head.check().map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))?;
        let mut out = BufWriter::with_capacity(1 << 16, Box::new(out) as Box<dyn Write + Send>);
        out.write_all(head.lines().as_bytes())?;
        out.flush()?;
        Ok(Writer { out, head, batch: 0, last: None, failed: None, lines: String::new() })
    }

    /// What `n_rows` rows chose in a layer, `[n_rows, n_used]`. A layer that does not follow the last one begins a batch.
    /// A failure is kept for [`finish`](Writer::finish), and nothing is written after it.
    ///
    /// # Panics
    /// If there are not as many choices, or no such layer.
    pub fn batch_layer(&mut self, layer: usize, n_rows: usize, choices: &[i32]) {
        assert_eq!(choices.len(), n_rows * self.head.n_used, "{n_rows} rows of choices");
        assert!(layer < self.head.n_layer, "layer {layer} of {}", self.head.n_layer);
        self.batch += u64::from(self.last.is_some_and(|last| layer <= last));
        self.last = Some(layer);
        self.lines.clear();
        write_lines(&mut self.lines, self.batch, layer, choices, self.head.n_used);
        if self.failed.is_none() {
            self.failed = self.out.write_all(self.lines.as_bytes()).err();
        }
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// The first failure since the beginning.
    pub fn finish(mut self) -> io::Result<()> {
        match self.failed.take() {
            Some(e) => Err(e),
            None => self.out.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const HEAD: Head = Head { n_layer: 2, n_expert: 8, n_used: 2, expert_bytes: 10 };

    /// Memory that takes so many bytes.
    #[derive(Clone, Default)]
    struct Disk {
        bytes: Arc<Mutex<Vec<u8>>>,
        n_max: Option<usize>,
    }

    impl Disk {
        fn text(&self) -> String {
            String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut all = self.bytes.lock().unwrap();
            if self.n_max.is_some_and(|n| all.len() + bytes.len() > n) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            all.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_layer_that_does_not_follow_begins_a_batch() {
        let disk = Disk::default();
        let mut writer = Writer::create(disk.clone(), HEAD).unwrap();
        writer.batch_layer(0, 2, &[7, 0, 1, 2]);
        writer.batch_layer(1, 1, &[3, 4]);
        writer.batch_layer(1, 1, &[5, 6]);
        writer.batch_layer(0, 0, &[]);
        writer.batch_layer(0, 1, &[5, 6]);
        drop(writer);
        let expected = "# routes 1 n_layer=2 n_expert=8 n_used=2 expert_bytes=10\nbatch,layer,row,experts\n\
                        0,0,0,7 0\n0,0,1,1 2\n0,1,0,3 4\n1,1,0,5 6\n3,0,0,5 6\n";
        assert_eq!(disk.text(), expected);
    }

    #[test]
    fn the_first_failure_is_told_at_the_end_and_lines_stay_whole() {
        let disk = Disk { n_max: Some(100_000), ..Disk::default() };
        let mut writer = Writer::create(disk.clone(), HEAD).unwrap();
        (0..20_000).for_each(|i| writer.batch_layer(i % 2, 1, &[1, 2]));
        assert_eq!(writer.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(disk.text().ends_with(" 2\n"), "whole lines");
    }

    #[test]
    fn numbers_of_no_model_are_refused() {
        for head in [Head { n_used: 9, ..HEAD }, Head { n_layer: 1 << 40, ..HEAD }, Head { expert_bytes: 0, ..HEAD }] {
            let error = Writer::create(io::sink(), head).err().expect("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
