//! The numbers of a model that a refinement moves.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, bail};
use candle_core::{Device, Tensor, Var};
use novaq_engine::codec::{AqMatrix, LowRankMatrix, Matrix};
use rayon::prelude::*;
use safetensors::tensor::{SafeTensors, TensorView};
use safetensors::{Dtype, serialize};

use super::adam::Trained;
use super::coded::{CodedSet, Rates, State};
use super::layers::Weights;
use crate::layered::{Tensors, rounded_vector};

/// All of `tensors` in floats.
pub(super) fn floats(tensors: &Tensors, device: &Device) -> candle_core::Result<Weights> {
    let mut weights = dense(&tensors.matrices, device)?;
    for (name, values) in &tensors.vectors {
        weights.insert(name.clone(), Tensor::from_slice(values, values.len(), device)?);
    }
    Ok(weights)
}

/// A norm or a bias, in units of its own size, so that steps are relative.
struct Vector {
    name: String,
    unit: f32,
    values: Trained,
}

/// What a part of a step came to.
pub(super) struct Loss {
    /// What is minimised, a sum.
    pub(super) tensor: Tensor,
    /// What is reported, a sum.
    pub(super) value: f64,
    /// What both are sums over: positions, or texts.
    pub(super) count: usize,
}

/// What a part of a step taught.
struct Learned<'a> {
    value: f64,
    count: usize,
    /// By the name of a tensor; none where the loss does not depend on it.
    gradients: HashMap<&'a str, Vec<f32>>,
}

/// A model in training.
pub(super) struct Student {
    device: Device,
    sets: Vec<CodedSet>,
    /// Mean over all coded weights of the error that their codecs are expected to have. One for all: where the layers have few
    /// bits, an embedding of many has to move as far as they do (TinyStories-656K at 1 bit: a KL of 0.815 in place of 0.906).
    mean_error: f32,
    vectors: Vec<Vector>,
    /// Matrices whose factors are among the sets.
    low_rank: Vec<String>,
    /// Matrices that are not trained, and the same in floats.
    fixed: BTreeMap<String, Matrix>,
    fixed_weights: Weights,
    /// Steps taken.
    steps: usize,
}

impl Student {
    /// A student that begins with `tensors`; matrices that it does not `train` stay as they are.
    pub(super) fn new(
        tensors: Tensors,
        device: &Device,
        trains: impl Fn(&str) -> bool,
    ) -> candle_core::Result<Self> {
        let mut groups: Vec<Vec<(String, AqMatrix)>> = Vec::new();
        let mut fixed = BTreeMap::new();
        let mut low_rank = Vec::new();
        let mut add = |name: String, matrix: AqMatrix| {
            let shares = |group: &&mut Vec<(String, AqMatrix)>| {
                group.iter().any(|(_, m)| Arc::ptr_eq(m.codebooks(), matrix.codebooks()))
            };
            match groups.iter_mut().find(shares) {
                Some(group) => group.push((name, matrix)),
                None => groups.push(vec![(name, matrix)]),
            }
        };
        for (name, matrix) in tensors.matrices {
            match matrix {
                matrix if !trains(&name) => {
                    fixed.insert(name, matrix);
                }
                Matrix::Aq(matrix) => add(name, matrix),
                Matrix::LowRank(matrix) => {
                    add(first_factor(&name), matrix.first().clone());
                    add(second_factor(&name), matrix.second().clone());
                    low_rank.push(name);
                }
                Matrix::Dense(_) | Matrix::Int8(_) | Matrix::Int4(_) | Matrix::Fp8(_) => {
                    fixed.insert(name, matrix);
                }
            }
        }
        let vectors = tensors.vectors.into_iter().map(|(name, values)| {
            let square: f32 = values.iter().map(|v| v * v).sum::<f32>() / values.len().max(1) as f32;
            let unit = if square > 0.0 { square.sqrt() } else { 1.0 };
            Vector { name, unit, values: Trained::new(values.iter().map(|v| v / unit).collect()) }
        });
        let sets: Vec<CodedSet> = groups.iter().map(|group| CodedSet::new(group)).collect();
        let (weights, errors) = sets
            .iter()
            .map(CodedSet::expected_error)
            .fold((0, 0.0), |(all, sum), (weights, error)| (all + weights, sum + weights as f32 * error));
        Ok(Self {
            mean_error: errors / weights.max(1) as f32,
            device: device.clone(),
            fixed_weights: dense(&fixed, device)?,
            sets,
            vectors: vectors.collect(),
            low_rank,
            fixed,
            steps: 0,
        })
    }

    /// Steps taken.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// The values of everything that is trained, as variables.
    fn variables(&self) -> candle_core::Result<BTreeMap<String, Var>> {
        let mut variables = BTreeMap::new();
        let mut add = |name: &str, tensor: Tensor| {
            variables.insert(name.to_owned(), Var::from_tensor(&tensor)?);
            candle_core::Result::Ok(())
        };
        for set in &self.sets {
            for (index, matrix) in set.matrices.iter().enumerate() {
                add(&matrix.name, Tensor::from_vec(set.decode(index), matrix.shape(), &self.device)?)?;
            }
        }
        for Vector { name, unit, values } in &self.vectors {
            let values: Vec<f32> = values.values.iter().map(|v| v * unit).collect();
            let len = values.len();
            add(name, Tensor::from_vec(values, len, &self.device)?)?;
        }
        Ok(variables)
    }

    /// Takes a step against the gradient of the mean of `loss` over `parts` parts. Returns the mean of
    /// the losses' reported values.
    pub(super) fn step(
        &mut self,
        rates: Rates,
        parts: usize,
        loss: impl Fn(&Weights, usize) -> candle_core::Result<Loss> + Sync,
    ) -> candle_core::Result<f64> {
        let variables = self.variables()?;
        let mut weights = self.fixed_weights.clone();
        weights.extend(variables.iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())));
        let parts: Vec<Learned> = (0..parts)
            .into_par_iter()
            .map(|part| {
                let loss = loss(&weights, part)?;
                let gradients = loss.tensor.backward()?;
                let mut found = HashMap::new();
                for (name, variable) in &variables {
                    if let Some(gradient) = gradients.get(variable) {
                        found.insert(name.as_str(), gradient.flatten_all()?.to_vec1()?);
                    }
                }
                Ok(Learned { value: loss.value, count: loss.count, gradients: found })
            })
            .collect::<candle_core::Result<_>>()?;
        let count: usize = parts.iter().map(|part| part.count).sum();
        let value: f64 = parts.iter().map(|part| part.value).sum();
        // In the order of the parts, so that the number of threads changes nothing.
        let total = |name: &str, len: usize| {
            let mut sum = vec![0.0f32; len];
            for gradient in parts.iter().filter_map(|part| part.gradients.get(name)) {
                sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g);
            }
            for s in &mut sum {
                *s /= count.max(1) as f32;
            }
            sum
        };
        self.steps += 1;
        let rates = Rates { latent: rates.latent.map(|share| share * self.mean_error), ..rates };
        for set in &mut self.sets {
            let gradients: Vec<Vec<f32>> =
                set.matrices.iter().map(|m| total(&m.name, m.shape().0 * m.shape().1)).collect();
            set.step(&gradients, rates, self.steps);
        }
        for Vector { name, values, .. } in &mut self.vectors {
            let gradient = total(name, values.values.len());
            values.step(&gradient, rates.vectors, self.steps);
        }
        Ok(value / count.max(1) as f64)
    }

    /// The tensors as they are stored: vectors are rounded to 16-bit floats.
    pub(super) fn finish(self) -> anyhow::Result<Tensors> {
        let mut tensors = Tensors { matrices: self.fixed, vectors: BTreeMap::new() };
        let mut coded = BTreeMap::new();
        for set in &self.sets {
            coded.extend(set.stored().context("a refined matrix can't be stored")?);
        }
        for name in self.low_rank {
            let factors = [first_factor(&name), second_factor(&name)].map(|factor| coded.remove(&factor));
            let [Some(first), Some(second)] = factors else { bail!("a factor of `{name}` is missing") };
            tensors.matrices.insert(name, Matrix::LowRank(LowRankMatrix::new(first, second)?));
        }
        tensors.matrices.extend(coded.into_iter().map(|(name, m)| (name, Matrix::Aq(m))));
        for Vector { name, unit, values } in self.vectors {
            let values: Vec<f32> = values.values.iter().map(|v| v * unit).collect();
            let rounded = rounded_vector(&name, &values)?;
            tensors.vectors.insert(name, rounded);
        }
        Ok(tensors)
    }

    fn state(&mut self) -> State<'_> {
        let mut state = State::default();
        for set in &mut self.sets {
            set.state(&mut state);
        }
        state.trained.extend(self.vectors.iter_mut().map(|v| (v.name.clone(), &mut v.values)));
        state
    }

    /// Everything that a later call needs to go on to the same end.
    pub(super) fn save(&mut self) -> anyhow::Result<Vec<u8>> {
        let steps = self.steps.to_string();
        let State { trained, codes } = self.state();
        let mut sections: Vec<(String, Dtype, Vec<u8>)> = Vec::new();
        for (name, trained) in trained {
            for (part, values) in PARTS_OF_STATE.iter().zip(trained.parts()) {
                let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                sections.push((format!("{name}:{part}"), Dtype::F32, bytes));
            }
        }
        sections.extend(codes.into_iter().map(|(name, codes)| (name, Dtype::U8, codes.clone())));
        let views: Vec<(&str, TensorView)> = sections
            .iter()
            .map(|(name, dtype, bytes)| {
                let len = if *dtype == Dtype::F32 { bytes.len() / 4 } else { bytes.len() };
                Ok((name.as_str(), TensorView::new(*dtype, vec![len], bytes)?))
            })
            .collect::<Result<_, safetensors::SafeTensorError>>()?;
        Ok(serialize(views, Some(HashMap::from([(STEPS.to_owned(), steps)])))?)
    }

    /// Goes on from what [`Self::save`] gave for a student of the same model.
    pub(super) fn restore(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let (_, metadata) = SafeTensors::read_metadata(bytes)?;
        let steps = metadata.metadata().as_ref().and_then(|m| m.get(STEPS)?.parse().ok());
        let sections = SafeTensors::deserialize(bytes)?;
        let State { trained, codes } = self.state();
        for (name, trained) in trained {
            let mut parts: [Vec<f32>; 3] = Default::default();
            for (part, values) in PARTS_OF_STATE.iter().zip(&mut parts) {
                let bytes = sections.tensor(&format!("{name}:{part}"))?;
                *values = bytes.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            }
            trained.restore(parts).map_err(anyhow::Error::msg).context(name)?;
        }
        for (name, codes) in codes {
            let stored = sections.tensor(&name)?;
            if stored.data().len() != codes.len() || stored.data().iter().any(|&code| code > 15) {
                bail!("`{name}` is not what it was");
            }
            codes.copy_from_slice(stored.data());
        }
        self.steps = steps.context("the number of steps is missing")?;
        Ok(())
    }
}

/// Names of the factors of the low-rank matrix `name`: that which is applied first, and the other.
pub(super) fn first_factor(name: &str) -> String {
    format!("{name}.first")
}

pub(super) fn second_factor(name: &str) -> String {
    format!("{name}.second")
}

/// The numbers and the two moments of their gradients.
const PARTS_OF_STATE: [&str; 3] = ["values", "mean", "square"];

const STEPS: &str = "steps";

/// `matrices` as tensors.
fn dense(matrices: &BTreeMap<String, Matrix>, device: &Device) -> candle_core::Result<Weights> {
    let tensor =
        |matrix: &Matrix| Tensor::from_vec(matrix.decode(), (matrix.rows(), matrix.columns()), device);
    matrices.iter().map(|(name, matrix)| Ok((name.clone(), tensor(matrix)?))).collect()
}
