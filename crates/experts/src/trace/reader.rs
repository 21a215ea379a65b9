//! Reads a trace, batch by batch. A trace is a stranger's file: what it says is checked before it is used, and memory is
//! taken for what is there, not for what is claimed.

use std::io::{BufRead, Read as _};

use super::{Batch, COLUMNS, Error, Head, Layer};

/// The longest line: far more than a row with every expert of a layer takes.
const LINE_MAX: u64 = 1 << 20;

/// The batches of a trace, in order. After an error nothing follows.
pub struct Reader<R> {
    input: R,
    head: Head,
    /// The number of the line that was read last.
    line: u64,
    /// The first row of the next batch.
    next: Option<Row>,
    done: bool,
}

/// One line of data.
struct Row {
    batch: u64,
    layer: usize,
    row: usize,
    chosen: Vec<i32>,
}

impl<R: BufRead> Reader<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// [`Error`].
    pub fn new(input: R) -> Result<Reader<R>, Error> {
        let head = Head { n_layer: 0, n_expert: 0, n_used: 0, expert_bytes: 0 };
        let mut reader = Reader { input, head, line: 0, next: None, done: false };
        let first = reader.line()?.unwrap_or_default();
        reader.head = head_of(&first).map_err(|problem| reader.fails(problem))?;
        loop {
            match reader.line()?.as_deref() {
                Some(COLUMNS) => return Ok(reader),
                Some(comment) if comment.starts_with('#') => {}
                _ => return Err(reader.fails(format!("the names of the columns, {COLUMNS}, are missing"))),
            }
        }
    }

    /// What holds for the whole trace.
    pub fn head(&self) -> Head {
        self.head
    }

    /// That the last line is wrong.
    pub(super) fn fails(&self, problem: String) -> Error {
        Error::Line { line: self.line.max(1), problem }
    }

    /// The next line, without its end; `None` behind the last one.
    fn line(&mut self) -> Result<Option<String>, Error> {
        let mut bytes = Vec::new();
        (&mut self.input).take(LINE_MAX).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        let Some(line) = bytes.strip_suffix(b"\n") else {
            return Err(self.fails(match bytes.len() as u64 {
                LINE_MAX => format!("longer than {LINE_MAX} bytes"),
                _ => "the file ends in the middle of this line".into(),
            }));
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match std::str::from_utf8(line) {
            Ok(text) => Ok(Some(text.into())),
            Err(_) => Err(self.fails("is no text".into())),
        }
    }

    fn row(&mut self) -> Result<Option<Row>, Error> {
        match self.line()? {
            None => Ok(None),
            Some(line) => row_of(&line, &self.head).map(Some).map_err(|problem| self.fails(problem)),
        }
    }

    /// The next batch; its end is known from the first row of the one that follows.
    fn batch(&mut self) -> Result<Option<Batch>, Error> {
        let first = match self.next.take() {
            Some(row) => Some(row),
            None => self.row()?,
        };
        let Some(first) = first else { return Ok(None) };
        let number = first.batch;
        let mut batch = Batch::default();
        self.append(&mut batch, first)?;
        while let Some(row) = self.row()? {
            match row.batch {
                b if b == number => self.append(&mut batch, row)?,
                b if b < number => return Err(self.fails(format!("batch {b} comes after batch {number}"))),
                _ => {
                    self.next = Some(row);
                    break;
                }
            }
        }
        Ok(Some(batch))
    }

    fn append(&self, batch: &mut Batch, row: Row) -> Result<(), Error> {
        let Row { layer, row, chosen, .. } = row;
        match batch.layers.last_mut() {
            Some(l) if l.layer == layer && l.n_rows == row => {
                l.n_rows += 1;
                l.choices.extend(chosen);
            }
            Some(l) if l.layer == layer => {
                return Err(self.fails(format!("row {row} stands where row {} belongs", l.n_rows)));
            }
            Some(l) if l.layer > layer => {
                return Err(self.fails(format!("layer {layer} comes after layer {} of the same batch", l.layer)));
            }
            _ if row != 0 => return Err(self.fails(format!("row {row} stands where row 0 belongs"))),
            _ => batch.layers.push(Layer { layer, n_rows: 1, choices: chosen }),
        }
        Ok(())
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Result<Batch, Error>> {
        if self.done {
            return None;
        }
        let batch = self.batch().transpose();
        self.done = !matches!(batch, Some(Ok(_)));
        batch
    }
}

/// `# routes 1 n_layer=8 n_expert=256 n_used=6 expert_bytes=7077888`
fn head_of(line: &str) -> Result<Head, String> {
    let words: Vec<&str> = line.split(' ').collect();
    let [hash, name, version, layer, expert, used, bytes] = words[..] else { return Err(no_head()) };
    if (hash, name) != ("#", "routes") {
        return Err(no_head());
    }
    if version != "1" {
        return Err(format!("a trace of version {}, and only version 1 is known", shorten(version)));
    }
    let value = |word: &str, key: &str| {
        let digits = word.strip_prefix(key).and_then(|rest| rest.strip_prefix('='));
        digits.and_then(number).ok_or_else(|| format!("{key}=N belongs where {} stands", shorten(word)))
    };
    let size = |word, key| value(word, key).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let head = Head {
        n_layer: size(layer, "n_layer")?,
        n_expert: size(expert, "n_expert")?,
        n_used: size(used, "n_used")?,
        expert_bytes: value(bytes, "expert_bytes")?,
    };
    head.check().map(|()| head)
}

fn no_head() -> String {
    "is not the head of a trace: # routes 1 n_layer=N n_expert=N n_used=N expert_bytes=N".into()
}

/// `12,3,0,17 201 4 90 33 8`
fn row_of(line: &str, head: &Head) -> Result<Row, String> {
    let cells: Vec<&str> = line.split(',').collect();
    let [batch, layer, row, experts] = cells[..] else {
        return Err(format!("has {} columns instead of 4", cells.len()));
    };
    let value = |text: &str, name: &str| number(text).ok_or_else(|| format!("{name} is no number: {}", shorten(text)));
    let (batch, layer, row) = (value(batch, "batch")?, value(layer, "layer")?, value(row, "row")?);
    if layer >= head.n_layer as u64 {
        return Err(format!("there is no layer {layer} among {}", head.n_layer));
    }
    let chosen = experts.split(' ').map(|text| expert(text, head)).collect::<Result<Vec<_>, _>>()?;
    if chosen.len() != head.n_used {
        return Err(format!("names {} experts instead of {}", chosen.len(), head.n_used));
    }
    let mut sorted = chosen.clone();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("names expert {} twice", pair[0])),
        None => Ok(Row { batch, layer: layer as usize, row: usize::try_from(row).unwrap_or(usize::MAX), chosen }),
    }
}

fn expert(text: &str, head: &Head) -> Result<i32, String> {
    let e = number(text).ok_or_else(|| format!("expert is no number: {}", shorten(text)))?;
    match e < head.n_expert as u64 {
        true => Ok(e as i32),
        false => Err(format!("there is no expert {e} among {}", head.n_expert)),
    }
}

/// Digits and nothing else.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A word that may be a whole file, in quotes.
fn shorten(word: &str) -> String {
    match word.char_indices().nth(40) {
        Some((end, _)) => format!("'{}…'", &word[..end]),
        None => format!("'{word}'"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::{
        super::{Trace, Writer},
        *,
    };

    const HEAD: &str = "# routes 1 n_layer=2 n_expert=8 n_used=2 expert_bytes=10\nbatch,layer,row,experts\n";

    fn layer(layer: usize, choices: &[i32]) -> Layer {
        Layer { layer, n_rows: choices.len() / 2, choices: choices.into() }
    }

    #[test]
    fn batches_come_back_as_they_were() {
        let rows = "3,0,0,7 0\n3,0,1,1 2\n3,1,0,3 4\n4,1,0,5 6\r\n9,0,0,5 6\n";
        let trace = Trace::read(format!("{HEAD}{rows}").as_bytes()).unwrap();
        assert_eq!(trace.head, Head { n_layer: 2, n_expert: 8, n_used: 2, expert_bytes: 10 });
        let expected =
            [vec![layer(0, &[7, 0, 1, 2]), layer(1, &[3, 4])], vec![layer(1, &[5, 6])], vec![layer(0, &[5, 6])]];
        assert_eq!(trace.batches, expected.map(|layers| Batch { layers }));
        assert_eq!(trace.batches[0].n_rows(), 2);
    }

    #[test]
    fn what_is_written_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let head = Head { n_layer: 3, n_expert: 300, n_used: 2, expert_bytes: 7_077_888 };
        let batch = |n: i32| {
            let layer = |layer: usize| Layer { layer, n_rows: 3, choices: vec![n, 299, 298, n, 1, 0] };
            Batch { layers: (0..3).map(layer).collect() }
        };
        let trace = Trace { head, batches: (2..90).map(batch).collect() };
        let mut writer = Writer::create(file.reopen().unwrap(), head).unwrap();
        let layers = trace.batches.iter().flat_map(|b| &b.layers);
        layers.for_each(|l| writer.batch_layer(l.layer, l.n_rows, &l.choices));
        writer.finish().unwrap();
        assert_eq!(Trace::read(BufReader::new(file.reopen().unwrap())).unwrap(), trace);
    }

    #[test]
    fn every_wrong_line_is_named() {
        let check = |text: String, expected: &str| {
            assert_eq!(Trace::read(text.as_bytes()).unwrap_err().to_string(), expected, "{text}");
        };
        let of_rows = |rows: &str, expected: &str| check(format!("{HEAD}{rows}"), expected);
        of_rows("", "line 2: the trace ends before the first choice");
        of_rows("0,0,0,1 2\n0,1,0,1", "line 4: the file ends in the middle of this line");
        of_rows("0,0,0,1 2\n0,1,0,1\n", "line 4: names 1 experts instead of 2");
        of_rows("0,0,0,1 2 3\n", "line 3: names 3 experts instead of 2");
        of_rows("0,0,0,1 1\n", "line 3: names expert 1 twice");
        of_rows("0,0,0,1 8\n", "line 3: there is no expert 8 among 8");
        of_rows("0,0,0,1  2\n", "line 3: expert is no number: ''");
        of_rows("0,0,0,1 -2\n", "line 3: expert is no number: '-2'");
        of_rows("0,2,0,1 2\n", "line 3: there is no layer 2 among 2");
        of_rows("x,0,0,1 2\n", "line 3: batch is no number: 'x'");
        of_rows("0,0,99999999999999999999,1 2\n", "line 3: row is no number: '99999999999999999999'");
        of_rows("0,0,0\n", "line 3: has 3 columns instead of 4");
        of_rows("0,0,1,1 2\n", "line 3: row 1 stands where row 0 belongs");
        of_rows("0,0,0,1 2\n0,0,0,1 2\n", "line 4: row 0 stands where row 1 belongs");
        of_rows("0,1,0,1 2\n0,0,0,1 2\n", "line 4: layer 0 comes after layer 1 of the same batch");
        of_rows("5,0,0,1 2\n4,0,0,1 2\n", "line 4: batch 4 comes after batch 5");
        of_rows("# late\n", "line 3: has 1 columns instead of 4");
        let no_head = "line 1: is not the head of a trace: # routes 1 n_layer=N n_expert=N n_used=N expert_bytes=N";
        check(String::new(), no_head);
        check("GGUF\n".into(), no_head);
        check(HEAD.replace("routes 1", "routes 2"), "line 1: a trace of version '2', and only version 1 is known");
        check(HEAD.replace("n_used", "used"), "line 1: n_used=N belongs where 'used=2' stands");
        check(HEAD.replace("n_used=2", "n_used=+2"), "line 1: n_used=N belongs where 'n_used=+2' stands");
        check(HEAD.replace("n_used=2", "n_used=9"), "line 1: n_used=9 is more than n_expert=8");
        let zero = "line 1: n_layer, n_expert, n_used and expert_bytes must be at least 1";
        check(HEAD.replace("n_layer=2", "n_layer=0"), zero);
        let many = "line 1: 4000000000 layers of 8 experts are more than 1048576 experts";
        check(HEAD.replace("n_layer=2", "n_layer=4000000000"), many);
        let columns = "line 2: the names of the columns, batch,layer,row,experts, are missing";
        check(HEAD.replace("row,", ""), columns);
        check(HEAD.replace("\nb", "\n# a model\n0,1\n#"), columns.replace('2', "3").as_str());
        check("x".repeat(2 << 20), "line 1: longer than 1048576 bytes");
    }

    #[test]
    fn comments_between_head_and_columns_are_passed_over() {
        let text = format!("{}0,0,0,1 2\n", HEAD.replace("\nb", "\n# a model\n# a prompt\nb"));
        assert_eq!(Trace::read(text.as_bytes()).unwrap().batches.len(), 1);
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        let error = Trace::read(&b"\xff\xfe\n"[..]).unwrap_err();
        assert_eq!(error.to_string(), "line 1: is no text");
    }
}
