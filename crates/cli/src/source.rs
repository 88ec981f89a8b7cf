//! `--run DIR | --model HFDIR`: a model, its tokenizer, and how it reads text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use burn::tensor::Device;
use caravan_finetune::load_peft;
use caravan_generate::{ChatTemplate, TEMPLATES};
use caravan_model::Kernels;
use caravan_model::Llama;
use caravan_tokenizer::{Encode as _, Tokenizer};
use caravan_train::open_run;

/// Where a model comes from.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Source {
    /// Folder of a training run.
    #[arg(long, value_name = "DIR", required_unless_present = "model", conflicts_with = "model")]
    pub(crate) run: Option<PathBuf>,
    /// A model in Hugging Face form (a folder) or a GGUF file; hf:owner/name or hf:owner/name:file.gguf is downloaded.
    #[arg(long, value_name = "PATH|hf:REPO")]
    pub(crate) model: Option<PathBuf>,
    /// LoRA adapters of PEFT's form (a folder), which are folded into the model's weights.
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// Where to compute: flex, tch, cuda, cuda:1, ...
    #[arg(long, default_value = "flex")]
    pub(crate) device: String,
    /// Whether what is loaded is not spoken of, as on ranks behind the first.
    #[arg(skip)]
    pub(crate) quiet: bool,
}

/// A model ready to be asked.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) model: Llama,
    /// Absent where a Hugging Face folder holds none.
    pub(crate) tokenizer: Option<Arc<Tokenizer>>,
    /// Whether it was trained with attention kept inside documents.
    pub(crate) document_mask: bool,
    pub(crate) folder: PathBuf,
    /// Ids that end a text.
    pub(crate) ends: Vec<u32>,
    /// How conversations are written for the model, a Jinja text.
    pub(crate) chat_template: Option<String>,
}

impl Source {
    /// A model by its path, on the CPU.
    pub(crate) fn of(path: &Path, is_run: bool) -> Self {
        let path = Some(path.to_owned());
        let (run, model) = if is_run { (path, None) } else { (None, path) };
        Self { run, model, adapter: None, device: "flex".to_owned(), quiet: false }
    }

    /// Loads it to be read.
    pub(crate) fn load(&self) -> Result<Loaded> {
        self.load_on(&caravan_model::device::parse(&self.device)?)
    }

    /// Loads it to be trained.
    pub(crate) fn load_trainable(&self) -> Result<Loaded> {
        self.load_on(&caravan_model::device::parse(&self.device)?.autodiff())
    }

    fn load_on(&self, device: &Device) -> Result<Loaded> {
        let mut loaded = self.load_base(device)?;
        let Some(dir) = &self.adapter else { return Ok(loaded) };
        let (model, lora) = load_peft(loaded.model, dir)?;
        self.note(&format!(
            "adapter `{}`: rank {}, alpha {}, on {}",
            dir.display(),
            lora.rank,
            lora.alpha,
            lora.targets.join(", ")
        ));
        loaded.model = model.merged();
        // What it was tuned with.
        if let Some(template) = caravan_model::chat_template(dir)? {
            loaded.chat_template = Some(template);
        }
        Ok(loaded)
    }

    fn load_base(&self, device: &Device) -> Result<Loaded> {
        if let Some(dir) = &self.run {
            let run = open_run(dir, device)?;
            return Ok(Loaded {
                ends: run.tokenizer.eos_id().into_iter().collect(),
                chat_template: None,
                model: run.model,
                tokenizer: Some(run.tokenizer),
                document_mask: run.config.data.document_mask,
                folder: dir.clone(),
            });
        }
        let dir = crate::download::resolve(&self.model.clone().unwrap_or_default())?;
        let is_gguf = dir.is_file();
        let (model, report) = match is_gguf {
            true => caravan_model::load_gguf(&dir, Kernels::Fused, device)?,
            false => caravan_model::load_hf(&dir, Kernels::Fused, device)?,
        };
        self.note(&format!(
            "loaded {} parameters from {} in {:.1} s, peak memory {}",
            caravan_train::group(model.config().param_count()),
            caravan_train::show_bytes(report.n_bytes),
            report.secs,
            caravan_train::peak_rss_bytes().map_or("unknown".to_owned(), caravan_train::show_bytes),
        ));
        for note in &report.notes {
            self.note(&format!("note: {note}"));
        }
        for name in &report.unused {
            self.note(&format!(
                "note: tensor `{name}` of `{}` is not part of the model and was not used",
                dir.display()
            ));
        }
        let has_tokenizer =
            is_gguf || ["tokenizer.model", "tokenizer.json"].iter().any(|f| dir.join(f).exists());
        let tokenizer = if has_tokenizer { Some(Arc::new(Tokenizer::load(&dir)?)) } else { None };
        let chat_template = caravan_model::chat_template(&dir)?;
        let mut ends = report.ends.0;
        if let Some(eos) = tokenizer.as_ref().and_then(|tokenizer| tokenizer.eos_id())
            && !ends.contains(&eos)
        {
            ends.push(eos);
        }
        // One document a row is right for every model, however it was trained.
        Ok(Loaded { model, tokenizer, document_mask: true, folder: dir, ends, chat_template })
    }
    fn note(&self, text: &str) {
        if !self.quiet {
            crate::output::note(text);
        }
    }
}

impl Loaded {
    /// The tokenizer, or how to get one.
    pub(crate) fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_deref().ok_or_else(|| {
            anyhow::anyhow!(
                "`{}` holds no tokenizer\nhelp: put the model's tokenizer.model or tokenizer.json into that folder",
                self.folder.display()
            )
        })
    }

    /// The ids of a prompt, BOS before it where the tokenizer adds one.
    pub(crate) fn prompt_ids(&self, prompt: &str) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        let begin = tokenizer.bos_id().filter(|_| tokenizer.adds_bos());
        let mut ids: Vec<u32> = begin.into_iter().collect();
        ids.extend(tokenizer.encode(prompt)?);
        Ok(ids)
    }

    /// The ids of a conversation that a template has written: names of special tokens are such tokens, BOS comes before it
    /// unless the template wrote it.
    pub(crate) fn template_ids(&self, text: &str) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        let mut ids = tokenizer.encode_with_special(text)?;
        let begin = tokenizer.bos_id().filter(|_| tokenizer.adds_bos());
        if let Some(bos) = begin.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The text of the chat template that was asked for by name or file, or of the model's own.
    pub(crate) fn template_source(&self, asked: Option<&str>) -> Result<String> {
        match (asked, &self.chat_template) {
            (Some(asked), _) => match TEMPLATES.iter().find(|(name, _)| *name == asked) {
                Some((_, source)) => Ok((*source).to_owned()),
                None => std::fs::read_to_string(asked).with_context(|| {
                    let names: Vec<&str> = TEMPLATES.iter().map(|(name, _)| *name).collect();
                    format!(
                        "chat template `{asked}`: neither one of {} nor a file that can be read",
                        names.join(", ")
                    )
                }),
            },
            (None, Some(own)) => Ok(own.clone()),
            (None, None) => bail!(
                "`{}` has no chat template: it was not trained on conversations\nhelp: name one with --chat-template plain, chatml or a file; `generate` needs none",
                self.folder.display()
            ),
        }
    }

    /// That template, compiled.
    pub(crate) fn template(&self, asked: Option<&str>) -> Result<ChatTemplate> {
        let source = self.template_source(asked)?;
        let tokenizer = self.tokenizer()?;
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default();
        Ok(ChatTemplate::new(&source, &name(tokenizer.bos_id()), &name(tokenizer.eos_id()))?)
    }
}
