//! The degrees of parallelism, their rules, and the groups of ranks that they make.
//!
//! Axes, outermost to innermost in rank order: `pipeline, data, shard, context, tensor`; neighbours in rank order, which
//! launchers put on one machine, are neighbours on the axes that talk most.

use caravan_collective::Communicator;
use caravan_model::LlamaConfig;

use crate::error::{ParallelError, Result};
use crate::{context, tensor};

/// How a run is split over ranks. Everything is 1 or off by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Replicas of the model, each with its own micro-batches.
    pub data: usize,
    /// Ranks inside a replica group that divide the state of the model, and also have micro-batches of their own (hybrid
    /// sharding: sharded inside, replicated along `data`).
    pub shard: usize,
    /// Slices of every weight matrix.
    pub tensor: usize,
    /// Stages of blocks.
    pub pipeline: usize,
    /// Parts of every sequence.
    pub context: usize,
    /// What the ranks of a replica group divide: nothing (0), optimizer state (1), gradients too (2), weights too (3).
    pub zero_stage: u8,
    /// Whether the tensor ranks divide the sequence between the split weights.
    pub sequence_parallel: bool,
    /// The order of a pipeline's work.
    pub schedule: Schedule,
    /// Pieces of the model on each pipeline rank; more than one only with [`Schedule::Interleaved`].
    pub virtual_stages: usize,
    /// Whether the step's sum has the same bits on every layout.
    pub reduction: Reduction,
}

/// The order in which a pipeline rank takes its micro-batches forward and backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Schedule {
    /// All forward, then all backward (Huang et al. 2019).
    GPipe,
    /// One forward, one backward as soon as possible: at most as many micro-batches in flight as stages follow.
    #[default]
    OneForwardOneBackward,
    /// As above with several pieces of the model on each rank (Narayanan et al. 2021, section 2.2).
    Interleaved,
}

/// How gradients of different ranks are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Reduction {
    /// In one tree over the global index of the micro-batches: the same bits on every layout.
    #[default]
    Exact,
    /// Each rank adds its own, owners add the ranks' sums: fewest bytes, the bits depend on the layout.
    Fast,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            data: 1,
            shard: 1,
            tensor: 1,
            pipeline: 1,
            context: 1,
            zero_stage: 0,
            sequence_parallel: false,
            schedule: Schedule::default(),
            virtual_stages: 1,
            reduction: Reduction::default(),
        }
    }
}

impl Layout {
    /// Number of ranks.
    pub fn world(&self) -> usize {
        self.data * self.shard * self.tensor * self.pipeline * self.context
    }

    /// Ranks that have micro-batches of their own.
    pub fn replicas(&self) -> usize {
        self.data * self.shard
    }

    /// Pieces the model's blocks are cut into: stages times pieces per rank.
    pub fn n_pieces(&self) -> usize {
        self.pipeline * self.virtual_stages
    }

    /// The degrees that are not 1, for people: `data 2 x tensor 4`.
    pub fn describe(&self) -> String {
        let axes = self.axes();
        let named: Vec<String> = axes
            .iter()
            .filter(|(_, _, n)| *n > 1)
            .map(|(axis, _, n)| format!("{axis} {n}"))
            .collect();
        let mut text = if named.is_empty() { "one rank".to_owned() } else { named.join(" x ") };
        if self.zero_stage > 0 {
            text.push_str(&format!(", ZeRO {}", self.zero_stage));
        }
        if self.sequence_parallel {
            text.push_str(", sequence parallel");
        }
        if self.pipeline > 1 {
            text.push_str(match self.schedule {
                Schedule::GPipe => ", GPipe",
                Schedule::OneForwardOneBackward => ", 1F1B",
                Schedule::Interleaved => ", interleaved 1F1B",
            });
        }
        text
    }

    /// Checks every rule that needs no rank.
    ///
    /// # Errors
    /// [`ParallelError::Layout`] names the key that breaks a rule and says what to change.
    pub fn check(
        &self,
        model: &LlamaConfig,
        seq_len: usize,
        micro_batch: usize,
        global_batch: usize,
    ) -> Result<()> {
        for (_, key, n) in self.axes() {
            if n == 0 {
                return wrong(format!("{key} = 0"), format!("use {key}=1 to switch it off"));
            }
        }
        self.check_batch(micro_batch, global_batch)?;
        self.check_state()?;
        self.check_context(seq_len)?;
        self.check_tensor(model, seq_len)?;
        self.check_pipeline(model, global_batch / (micro_batch * self.replicas()))
    }

    /// Checks that these degrees fill the ranks there are.
    ///
    /// # Errors
    /// [`ParallelError::Layout`], with the product and the number of ranks.
    pub fn check_world(&self, n_ranks: usize) -> Result<()> {
        if self.world() == n_ranks {
            return Ok(());
        }
        let product: Vec<String> =
            self.axes().iter().map(|(_, key, n)| format!("{key} {n}")).collect();
        let rest = self.world() / self.data;
        let help = if rest > 0 && n_ranks.is_multiple_of(rest) {
            format!("start {} ranks, or set data_parallel={}", self.world(), n_ranks / rest)
        } else {
            format!(
                "start {} ranks, or change the degrees so that they multiply to {n_ranks}",
                self.world()
            )
        };
        let s = if n_ranks == 1 { "" } else { "s" };
        let (product, world) = (product.join(" * "), self.world());
        wrong(format!("{n_ranks} rank{s}, but {product} = {world}"), help)
    }

    fn axes(&self) -> [(&'static str, &'static str, usize); 5] {
        [
            ("pipeline", "pipeline_parallel", self.pipeline),
            ("data", "data_parallel", self.data),
            ("shard", "shard_parallel", self.shard),
            ("context", "context_parallel", self.context),
            ("tensor", "tensor_parallel", self.tensor),
        ]
    }

    fn check_batch(&self, micro_batch: usize, global_batch: usize) -> Result<()> {
        let unit = micro_batch * self.replicas();
        if unit > 0 && global_batch > 0 && global_batch.is_multiple_of(unit) {
            return Ok(());
        }
        let names = if self.shard > 1 { "data_parallel * shard_parallel" } else { "data_parallel" };
        wrong(
            format!(
                "global_batch = {global_batch} is not a multiple of micro_batch * {names} = {unit}"
            ),
            format!(
                "set global_batch={}, or change the degrees",
                global_batch.next_multiple_of(unit.max(1))
            ),
        )
    }

    fn check_state(&self) -> Result<()> {
        if self.zero_stage > 3 {
            return wrong(
                format!("zero_stage = {}", self.zero_stage),
                "choose 0, 1, 2 or 3".into(),
            );
        }
        if self.shard > 1 && self.zero_stage == 0 {
            return wrong(
                format!("shard_parallel = {} with zero_stage = 0 would divide nothing", self.shard),
                "set zero_stage=1, 2 or 3, or use data_parallel instead".into(),
            );
        }
        if self.zero_stage > 0 && self.replicas() == 1 {
            return wrong(
                format!(
                    "zero_stage = {} with one replica has nobody to divide with",
                    self.zero_stage
                ),
                "raise data_parallel or shard_parallel, or set zero_stage=0".into(),
            );
        }
        Ok(())
    }

    fn check_tensor(&self, model: &LlamaConfig, seq_len: usize) -> Result<()> {
        let t = self.tensor;
        tensor::check(model, t)?;
        if self.sequence_parallel && t == 1 {
            return wrong(
                "sequence_parallel needs tensor_parallel above 1".into(),
                "set sequence_parallel=false or raise tensor_parallel".into(),
            );
        }
        if self.sequence_parallel {
            // Of the part of a sequence that a context rank has.
            tensor::check_sequence(seq_len / self.context, t)?;
        }
        Ok(())
    }

    fn check_context(&self, seq_len: usize) -> Result<()> {
        if self.context == 1 {
            return Ok(());
        }
        context::local_positions(0, self.context, seq_len).map(drop)
    }

    fn check_pipeline(&self, model: &LlamaConfig, n_micro_batches: usize) -> Result<()> {
        let (p, v) = (self.pipeline, self.virtual_stages);
        if v == 0 || (v > 1) != (self.schedule == Schedule::Interleaved) {
            return wrong(
                format!("virtual_stages = {v} with this pipeline_schedule"),
                "pipeline_schedule=interleaved goes with virtual_stages of 2 or more, the others with 1".into(),
            );
        }
        if v > 1 && p == 1 {
            return wrong(
                format!("virtual_stages = {v} with one pipeline rank"),
                "raise pipeline_parallel or set pipeline_schedule=1f1b".into(),
            );
        }
        if p * v > model.n_layers {
            return wrong(
                format!("{} pipeline pieces for n_layers = {}", p * v, model.n_layers),
                "every piece needs a block: lower pipeline_parallel or virtual_stages".into(),
            );
        }
        if v > 1 && !n_micro_batches.is_multiple_of(p) {
            return wrong(
                format!(
                    "{n_micro_batches} micro-batches per replica are not a multiple of pipeline_parallel = {p}, as the interleaved schedule needs"
                ),
                "change global_batch or micro_batch, or set pipeline_schedule=1f1b".into(),
            );
        }
        Ok(())
    }
}

fn wrong<T>(problem: String, help: String) -> Result<T> {
    Err(ParallelError::Layout { problem, help })
}

/// The groups of one rank. Axes of degree 1 are groups of one.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// All ranks.
    pub world: Communicator,
    /// The stages of this rank's pipeline.
    pub pipeline: Communicator,
    /// The replicas that hold the same part of the model, ordered by shard index, then data index.
    pub replicas: Communicator,
    /// Replicas that hold the same shard of the state.
    pub data: Communicator,
    /// Ranks that divide the state.
    pub shard: Communicator,
    /// Ranks that divide the sequence.
    pub context: Communicator,
    /// Ranks that divide the matrices.
    pub tensor: Communicator,
}

impl Mesh {
    /// A world of one rank.
    pub fn alone() -> Self {
        let alone = Communicator::alone();
        Self {
            world: alone.clone(),
            pipeline: alone.clone(),
            replicas: alone.clone(),
            data: alone.clone(),
            shard: alone.clone(),
            context: alone.clone(),
            tensor: alone,
        }
    }

    /// Cuts the world into the layout's groups; called by all ranks.
    ///
    /// # Errors
    /// As [`Layout::check_world`].
    pub fn new(world: Communicator, layout: &Layout) -> Result<Self> {
        layout.check_world(world.size())?;
        let place = Place::of(world.rank(), layout);
        let Place { pipeline, data, shard, context, tensor } = place;
        let group = |axis: &str, degree: usize, color: usize, key: usize| {
            if degree == 1 { Communicator::alone() } else { world.split(axis, color, key) }
        };
        let Layout { data: nd, shard: ns, context: nc, tensor: nt, .. } = *layout;
        // A color is the rank's place on all other axes, as one number.
        let inner = context * nt + tensor;
        Ok(Self {
            pipeline: group(
                "pipeline",
                layout.pipeline,
                (data * ns + shard) * nc * nt + inner,
                pipeline,
            ),
            replicas: group("replicas", nd * ns, pipeline * nc * nt + inner, shard * nd + data),
            data: group("data", nd, (pipeline * ns + shard) * nc * nt + inner, data),
            shard: group("shard", ns, (pipeline * nd + data) * nc * nt + inner, shard),
            context: group(
                "context",
                nc,
                ((pipeline * nd + data) * ns + shard) * nt + tensor,
                context,
            ),
            tensor: group(
                "tensor",
                nt,
                ((pipeline * nd + data) * ns + shard) * nc + context,
                tensor,
            ),
            world,
        })
    }
}

/// A rank's index on every axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Stage.
    pub pipeline: usize,
    /// Replica.
    pub data: usize,
    /// Shard of the state.
    pub shard: usize,
    /// Part of the sequence.
    pub context: usize,
    /// Slice of the matrices.
    pub tensor: usize,
}

impl Place {
    /// The place of a world rank.
    pub fn of(rank: usize, layout: &Layout) -> Self {
        let (tensor, rest) = (rank % layout.tensor, rank / layout.tensor);
        let (context, rest) = (rest % layout.context, rest / layout.context);
        let (shard, rest) = (rest % layout.shard, rest / layout.shard);
        let (data, pipeline) = (rest % layout.data, rest / layout.data);
        Self { pipeline, data, shard, context, tensor }
    }

    /// Index among the replicas: which micro-batches, and which part of a sum this rank owns.
    pub fn replica(&self, layout: &Layout) -> usize {
        self.shard * layout.data + self.data
    }
}
