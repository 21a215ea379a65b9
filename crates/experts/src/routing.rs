//! Where a forward pass meets what is around its choices: who reads experts, writes choices down, or makes them.

use std::sync::{Arc, Mutex, PoisonError};

use compute::{Device, Tensor};

use crate::{Ask, Foresight, ReadError, Script, Store, trace::Writer};

/// What to do about choices. By default nothing: all experts are in memory, and nobody wants to know.
#[derive(Clone, Default)]
pub struct Routing {
    /// Reads experts that are not among the weights.
    pub store: Option<Arc<Store>>,
    /// Writes choices down, until it is taken out.
    pub trace: Option<Arc<Mutex<Option<Writer>>>>,
    /// Makes the choices in the place of routers.
    pub script: Option<Arc<Script>>,
    /// Whether nothing is computed to guess at choices, for whoever watches what is computed.
    pub never_guesses: bool,
}

impl Routing {
    /// Whether choices are read back from the device, so that what it does next depends on them.
    pub fn reads_choices(&self) -> bool {
        self.store.is_some() || self.trace.is_some() || self.script.is_some()
    }

    /// Rows have chosen, `[rows, n_used]`: has their experts read, if there is a store.
    ///
    /// # Errors
    /// The device's.
    pub fn meet(&self, dev: &dyn Device, layer: usize, chosen: &Tensor) -> Result<Option<Ask<'_>>, ReadError> {
        if !self.reads_choices() {
            return Ok(None);
        }
        let n_rows = chosen.rows();
        let choices = match &self.script {
            None => read(dev, chosen)?,
            Some(script) => {
                let choices = script.take(layer, n_rows);
                dev.write(chosen, &choices.iter().flat_map(|e| e.to_le_bytes()).collect::<Vec<u8>>());
                choices
            }
        };
        if let Some(trace) = &self.trace
            && let Some(writer) = &mut *trace.lock().unwrap_or_else(PoisonError::into_inner)
        {
            writer.batch_layer(layer, n_rows, &choices);
        }
        Ok(self.store.as_ref().map(|store| store.ask(layer, &choices, n_rows)))
    }

    /// Whether it is of use to know choices of a batch of `n_rows` rows before their layer comes.
    pub fn looks_ahead(&self, n_rows: usize, foresight: Foresight) -> bool {
        let Some(store) = &self.store else { return false };
        match foresight {
            Foresight::Certain => n_rows == 1,
            Foresight::Guess => {
                !self.never_guesses && self.script.as_ref().is_none_or(|s| s.guesses()) && store.guesses(n_rows)
            }
        }
    }

    /// Reads what rows will choose in a layer, `[rows, n_used]`, as far as is known.
    ///
    /// # Errors
    /// The device's.
    pub fn foresee(
        &self,
        dev: &dyn Device,
        layer: usize,
        chosen: &Tensor,
        foresight: Foresight,
    ) -> Result<(), ReadError> {
        let Some(store) = &self.store else { return Ok(()) };
        let choices = match (&self.script, foresight) {
            (None, _) => read(dev, chosen)?,
            (Some(script), Foresight::Certain) => script.peek(layer, chosen.rows()),
            (Some(script), Foresight::Guess) => script.guess(layer, chosen.rows()),
        };
        store.read_ahead(layer, &choices, foresight);
        Ok(())
    }
}

fn read(dev: &dyn Device, chosen: &Tensor) -> Result<Vec<i32>, ReadError> {
    let mut bytes = vec![0; chosen.byte_range().len()];
    dev.read(chosen, &mut bytes)?;
    Ok(bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect())
}
