//! The scheduler, as seen by one who has a job for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::client::BallistaClient;
use ballista_core::extension::SessionConfigExt;
use ballista_core::ids::new_instance_id;
use ballista_core::serde::protobuf::execute_query_params::Query;
use ballista_core::serde::protobuf::execute_query_result::Result as Submitted;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{
    CancelJobParams, CleanJobDataParams, ExecuteQueryParams, GetJobStatusParams, KeyValuePair, PartitionLocation,
    RemoveSessionParams,
};
use ballista_core::utils::{GrpcClientConfig, create_grpc_client_endpoint};
use ballista_core::version;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use datafusion_proto::physical_plan::AsExecutionPlan;
use datafusion_proto::protobuf::PhysicalPlanNode;
use tonic::transport::Channel;

use crate::codec::Codec;

/// The largest message there may be. A plan holds the application's text and 28 bytes a segment.
pub(crate) const MESSAGE_BYTES: usize = 256 << 20;
/// How long the scheduler may take to answer.
const ANSWER_SECONDS: u64 = 10;
/// How long it may take to be there.
const SOON: Duration = Duration::from_secs(10);
/// How often to look whether it is.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How often to ask whether a job is done.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How often, in a row, the scheduler may not know a job that it took.
const UNKNOWN: usize = 100;

/// Why a job has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// The scheduler cannot be had.
    #[error("batch.scheduler = \"{address}\": {reason}")]
    NoScheduler {
        /// Where it should be.
        address: String,
        /// What is wrong there.
        reason: String,
    },
    /// A task told why.
    #[error("{0}")]
    Told(batch_layer::Failure),
    /// The job, or what it left, is lost: another one may do better.
    #[error("{0}")]
    Lost(String),
}

/// The two parts of `host:port`.
pub(crate) fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

/// A connection to the scheduler.
#[derive(Debug, Clone)]
pub(crate) struct Scheduler {
    address: String,
    client: SchedulerGrpcClient<Channel>,
}

impl Scheduler {
    /// Connects to `host:port`.
    pub(crate) async fn connect(address: &str) -> Result<Self, JobError> {
        let no_scheduler = |reason: String| JobError::NoScheduler { address: address.to_owned(), reason };
        let config = GrpcClientConfig {
            connect_timeout_seconds: ANSWER_SECONDS / 2,
            timeout_seconds: ANSWER_SECONDS,
            ..GrpcClientConfig::default()
        };
        let endpoint = match host_and_port(address) {
            Some(_) => create_grpc_client_endpoint(format!("http://{address}"), Some(&config)).ok(),
            None => None,
        };
        let endpoint = endpoint.ok_or_else(|| no_scheduler("not host:port".to_owned()))?;
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| no_scheduler(format!("no scheduler answers: {}", deepest(&error))))?;
        let client = SchedulerGrpcClient::new(channel)
            .max_encoding_message_size(MESSAGE_BYTES)
            .max_decoding_message_size(MESSAGE_BYTES);
        Ok(Self { address: address.to_owned(), client })
    }

    /// Connects as soon as it answers, if that is soon: a scheduler may be started after others, or again.
    pub(crate) async fn connect_soon(address: &str) -> Result<Self, JobError> {
        let deadline = Instant::now() + SOON;
        loop {
            match Self::connect(address).await {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK_AGAIN).await,
                outcome => return outcome,
            }
        }
    }

    fn no_answer(&self, status: &tonic::Status) -> JobError {
        let (address, code, message) = (&self.address, status.code(), status.message());
        match code {
            tonic::Code::Unimplemented => {
                JobError::NoScheduler { address: address.clone(), reason: "what answers is no scheduler".to_owned() }
            }
            _ => JobError::Lost(format!("the scheduler at {address}: {code:?}: {message}")),
        }
    }

    /// Hands a job in.
    pub(crate) async fn submit(mut self, name: &str, plan: Arc<dyn ExecutionPlan>) -> Result<Job, JobError> {
        let lost = |what: &str, error: &dyn std::fmt::Display| JobError::Lost(format!("{what}: {error}"));
        let message = PhysicalPlanNode::try_from_physical_plan(plan, &Codec::default());
        let mut bytes = Vec::new();
        message.and_then(|plan| plan.try_encode(&mut bytes)).map_err(|error| lost("the plan", &error))?;
        let session = new_instance_id();
        let query = ExecuteQueryParams {
            session_id: session.clone(),
            settings: settings(name),
            operation_id: new_instance_id(),
            query: Some(Query::PhysicalPlan(bytes)),
        };
        let mut request = tonic::Request::new(query);
        version::insert_version_header(request.metadata_mut());
        let answer = self.client.execute_query(request).await;
        let answer = answer.map_err(|status| self.no_answer(&status))?;
        let theirs = version::version_from_metadata(answer.metadata()).map(str::to_owned);
        let id = match answer.into_inner().result {
            Some(Submitted::Success(success)) => success.job_id,
            Some(Submitted::Failure(failure)) => return Err(JobError::Lost(format!("refused: {failure:?}"))),
            None => return Err(JobError::Lost("the scheduler says nothing".to_owned())),
        };
        let job = Job { scheduler: self, id, session, is_over: false };
        version::check_compatibility(Some(ballista_core::BALLISTA_VERSION), theirs.as_deref())
            .map_err(|error| job.scheduler.no_scheduler(error.to_string()))?;
        Ok(job)
    }

    fn no_scheduler(&self, reason: String) -> JobError {
        JobError::NoScheduler { address: self.address.clone(), reason }
    }
}

/// What Ballista should do with our jobs that it would not by itself.
fn settings(name: &str) -> Vec<KeyValuePair> {
    let config = SessionConfig::new_with_ballista()
        .with_ballista_job_name(name)
        // A task has the memory of one core, and the plan is what we say.
        .set_usize("ballista.scheduler.max_partitions_per_task", 1)
        .with_round_robin_repartition(false);
    let entries = config.options().entries().into_iter();
    entries.map(|entry| KeyValuePair { key: entry.key, value: entry.value }).collect()
}

/// A job that the scheduler took. Dropping it ends it and removes what it left.
pub(crate) struct Job {
    scheduler: Scheduler,
    id: String,
    session: String,
    is_over: bool,
}

impl Job {
    /// Waits until it is done. The parts of the result, each with where it is.
    pub(crate) async fn done(&mut self) -> Result<Vec<PartitionLocation>, JobError> {
        let mut unknown = 0;
        loop {
            let params = GetJobStatusParams { job_id: self.id.clone() };
            let answer = self.scheduler.client.get_job_status(params).await;
            let answer = answer.map_err(|status| self.scheduler.no_answer(&status))?.into_inner();
            match answer.status.and_then(|status| status.status) {
                Some(Status::Successful(done)) => {
                    self.is_over = true;
                    return Ok(done.partition_location);
                }
                Some(Status::Failed(failed)) => {
                    self.is_over = true;
                    let told = crate::told::failure(&failed.error);
                    return Err(told.map_or_else(|| JobError::Lost(failed.error), JobError::Told));
                }
                Some(Status::Queued(_) | Status::Running(_)) => unknown = 0,
                None if unknown == UNKNOWN => {
                    return Err(JobError::Lost(format!("the scheduler does not know job {} any more", self.id)));
                }
                None => unknown += 1,
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (mut client, job_id) = (self.scheduler.client.clone(), std::mem::take(&mut self.id));
        let (session_id, is_over) = (std::mem::take(&mut self.session), self.is_over);
        runtime.spawn(async move {
            // What cannot be removed now, executors remove when it is old.
            if !is_over {
                let _ = client.cancel_job(CancelJobParams { job_id: job_id.clone() }).await;
            }
            let _ = client.clean_job_data(CleanJobDataParams { job_id, remove_stage_ids: Vec::new() }).await;
            let _ = client.remove_session(RemoveSessionParams { session_id }).await;
        });
    }
}

/// Opens a part of a result where it is.
pub(crate) async fn open(part: PartitionLocation) -> Result<SendableRecordBatchStream, JobError> {
    let layout = part.layout();
    let (Some(executor), Some(id)) = (part.executor_meta, part.partition_id) else {
        return Err(JobError::Lost("a part of the result is nowhere".to_owned()));
    };
    let lost = |error: &dyn std::fmt::Display| {
        JobError::Lost(format!("a part of the result, at executor {}:{}: {error}", executor.host, executor.port))
    };
    let port = u16::try_from(executor.port).map_err(|error| lost(&error))?;
    let mut client = BallistaClient::try_new(&executor.host, port, MESSAGE_BYTES, false, None, 1, 0, 0, 0)
        .await
        .map_err(|error| lost(&error))?;
    let part = client.fetch_partition(&executor.id, &id.into(), part.file_id, layout, false).await;
    part.map_err(|error| lost(&error))
}

/// What is at the bottom of an error.
fn deepest<'e>(error: &'e (dyn std::error::Error + 'static)) -> &'e (dyn std::error::Error + 'static) {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}
