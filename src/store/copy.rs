//! Filling a store with the records of another of the same shape: codes are moved, never made again.

use super::catalog::SectionId;
use super::layout::{SectionLayout, VectorLayout};
use super::open::Store;
use super::writer::StoreWriter;
use crate::error::{Error, Result};
use crate::types::Matrix;

/// Bytes of records in memory at a time: whole sections of all but the largest models, so that they are read in order.
const TILE: usize = 256 << 20;
/// Whose records, and whose biases' values, are neurons.
const NEURONS: [Matrix; 3] = [Matrix::Gate, Matrix::Up, Matrix::Down];
const NEURON_BIASES: [&str; 2] = ["bias.gate", "bias.up"];

impl StoreWriter {
    /// Fills the open file with that of `source`; with an `order`, neuron `order[i]` of its layer becomes neuron i.
    ///
    /// # Errors
    /// `Error::Usage` when no file is open, the stores differ in shape or the order is none of all neurons; those of
    /// reading and writing; `Error::Damage` where records of the source are broken.
    pub fn copy(&mut self, source: &Store, order: Option<&[u32]>) -> Result<()> {
        let (index, layout) = self.opened_layout()?;
        self.check_shape(source)?;
        if let Some(order) = order {
            check_order(order, source.manifest.architecture.ffn)?;
        }
        for vector in &layout.vectors {
            let values = source.vector(layout.layer, &vector.name)?;
            self.vector(&vector.name, &moved(vector, values, order))?;
        }
        let first = source.sections.iter().take_while(|s| s.file != index).count();
        for (at, section) in layout.sections.iter().enumerate() {
            let order = order.filter(|_| NEURONS.contains(&section.parts[0].0));
            self.copy_section(source, SectionId((first + at) as u32), at, section, order)?;
        }
        self.count_zeros(source.manifest.files[index].zeros);
        Ok(())
    }

    fn check_shape(&self, source: &Store) -> Result<()> {
        let same = self.shape() == (&source.manifest.architecture, &source.manifest.encoding);
        let path = source.path.display();
        if same { Ok(()) } else { Err(Error::usage(format!("{path} has another architecture or encoding"))) }
    }

    fn copy_section(
        &mut self,
        source: &Store,
        id: SectionId,
        index: usize,
        section: &SectionLayout,
        order: Option<&[u32]>,
    ) -> Result<()> {
        let tile = (TILE / section.stride / section.check).max(1) * section.check;
        for first in (0..section.records).step_by(tile) {
            let records = first..(first + tile).min(section.records);
            let bytes = match order {
                Some(order) => gathered(source, id, &order[records])?,
                None => source.sound(id, &records)?,
            };
            self.coded(index, first, &bytes)?;
        }
        Ok(())
    }
}

/// The records of a section that `ids` list, in their order. They are read by rising place: all of a section are one
/// pass over it.
fn gathered(source: &Store, id: SectionId, ids: &[u32]) -> Result<Vec<u8>> {
    let section = source.section(id);
    let stride = section.layout.stride;
    let mut bytes = vec![0; ids.len() * stride];
    let mut places: Vec<usize> = (0..ids.len()).collect();
    places.sort_unstable_by_key(|place| ids[*place]);
    for place in places {
        let out = &mut bytes[place * stride..(place + 1) * stride];
        source.read_at(section.file, section.begin + u64::from(ids[place]) * stride as u64, out)?;
    }
    source.check_listed(id, ids, &bytes)?;
    Ok(bytes)
}

fn moved(vector: &VectorLayout, values: Vec<f32>, order: Option<&[u32]>) -> Vec<f32> {
    match order {
        Some(order) if NEURON_BIASES.contains(&vector.name.as_str()) => {
            order.iter().map(|id| values[*id as usize]).collect()
        }
        _ => values,
    }
}

fn check_order(order: &[u32], neurons: usize) -> Result<()> {
    let mut seen = vec![false; neurons];
    let fresh = |id: &u32| seen.get_mut(*id as usize).is_some_and(|seen| !std::mem::replace(seen, true));
    match order.len() == neurons && order.iter().all(fresh) {
        true => Ok(()),
        false => Err(Error::usage(format!("an order of neurons must list each of 0..{neurons} once"))),
    }
}
