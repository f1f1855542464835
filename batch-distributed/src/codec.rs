//! How our operators travel in plans, beside Ballista's own.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use serde::{Deserialize, Serialize};

use crate::assignment::{Assignment, Worker};
use crate::plan::{Work, WorkExec};

/// What the bytes of our operators begin with. Ballista's are protobuf, where this is no tag.
const OURS: &[u8] = b"\xfftidemark 1\n";

#[derive(Serialize, Deserialize)]
struct Travelling {
    work: Work,
    assignment: Assignment,
    /// The schema of what comes out: Arrow IPC in base64. With it a scheduler need not compile anything.
    schema: String,
}

/// Encodes and decodes the plans of jobs. Executors give the operators what they need; schedulers and clients do not run them.
#[derive(Debug, Default)]
pub(crate) struct Codec {
    ballista: BallistaPhysicalExtensionCodec,
    worker: Option<Arc<Worker>>,
}

impl Codec {
    pub(crate) fn of_executor(worker: Arc<Worker>) -> Self {
        Self { ballista: BallistaPhysicalExtensionCodec::default(), worker: Some(worker) }
    }
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(ours) = bytes.strip_prefix(OURS) else {
            return self.ballista.try_decode(bytes, inputs, context, converter);
        };
        let Travelling { work, assignment, schema } = serde_json::from_slice(ours).map_err(external)?;
        let [input] = inputs else {
            return Err(DataFusionError::Internal("TidemarkExec has one input".to_owned()));
        };
        let schema = schema_of(&schema)?;
        Ok(Arc::new(WorkExec::new(work, Arc::new(assignment), schema, input.clone(), self.worker.clone())))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(WorkExec { work, assignment, .. }) = node.downcast_ref::<WorkExec>() else {
            return self.ballista.try_encode(node, bytes, converter);
        };
        let schema = text_of(&node.schema())?;
        bytes.extend_from_slice(OURS);
        let travelling = Travelling { work: *work, assignment: (**assignment).clone(), schema };
        serde_json::to_writer(bytes, &travelling).map_err(external)
    }
}

fn text_of(schema: &SchemaRef) -> Result<String> {
    let mut bytes = Vec::new();
    StreamWriter::try_new(&mut bytes, schema)?.finish()?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn schema_of(text: &str) -> Result<SchemaRef> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(external)?;
    Ok(StreamReader::try_new(bytes.as_slice(), None)?.schema())
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
