//! One port for every service: tells requests apart, authenticates, decodes, dispatches and answers.

use crate::controller::Controller;
use crate::ec2::{self, Act, Answer, Call};
use crate::{admin, elsewhere, objects, sts};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use boira_api::ApiError;
use boira_api::auth::{self, AuthError, Claim, Demands, RequestHead};
use boira_api::respond;
use boira_api::route::{self, Destination};
use boira_api::shape::{Operation, Service};
use boira_api::value::Struct;
use boira_api::{decode, form, shapes, sigv4};
use boira_core::State as Rows;
use boira_model::AccountId;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Frame, SizeHint};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

/// AWS's clients show this one; the body repeats it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
/// Bodies of query requests; user data of 16 KiB in base64 and form encoding is far below.
const BODY_BYTES: usize = 1 << 20;
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// Pieces in which long answers are sent.
const PIECE_BYTES: usize = 64 << 10;

pub fn router(controller: Arc<Controller>) -> Router {
    Router::new()
        .nest("/boira/v1", admin::router(controller.clone()))
        .fallback(aws)
        .with_state(controller)
}

type Parameters<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// Requests of AWS's clients.
async fn aws(State(controller): State<Arc<Controller>>, request: Request) -> Response {
    let request_id = request_id();
    let taken = Taken::of(&request);
    let version = request.version();
    let request = request.map(|body| taken.watch(body));
    let mut response = match answer(&controller, request, &request_id).await {
        Answered::Here(response) => response,
        Answered::Objects(request) => {
            let response = objects::serve(&controller, request).await;
            return taken.or_close(version, response).await;
        }
    };
    let value = HeaderValue::from_str(&request_id).expect("hexadecimal digits and dashes");
    response.headers_mut().insert(REQUEST_ID, value);
    taken.or_close(version, response).await
}

/// Whether a request's body was taken to its end.
///
/// Of one that is refused, a little more is read: a client that still sends would lose the answer when
/// the connection is reset. A client that waits for `100 Continue` and is refused doesn't send its body
/// (RFC 9110, 10.1.1); what it sends next must not be taken for it, so that connection ends.
#[derive(Clone, Default)]
struct Taken {
    whole: Arc<AtomicBool>,
    /// What nobody read to its end.
    rest: Arc<Mutex<Option<Body>>>,
    /// Whether the client waits to be told to go on, and whether it was.
    waits: bool,
    begun: Arc<AtomicBool>,
}

/// So much of a refused body is still read, and for so long.
const LINGER_BYTES: usize = 256 << 10;
const LINGER: Duration = Duration::from_secs(1);

impl Taken {
    fn of(request: &Request) -> Self {
        Self {
            waits: request.headers().contains_key(header::EXPECT),
            ..Self::default()
        }
    }

    fn watch(&self, body: Body) -> Body {
        self.whole.store(body.is_end_stream(), Ordering::Relaxed);
        Body::new(Watched {
            body,
            taken: self.clone(),
        })
    }

    async fn or_close(&self, version: Version, mut response: Response) -> Response {
        let rest = self
            .rest
            .lock()
            .expect("no holder of this lock panics")
            .take();
        let comes = !self.waits || self.begun.load(Ordering::Relaxed);
        if let Some(rest) = rest.filter(|_| comes) {
            let read = Limited::new(rest, LINGER_BYTES).collect();
            let whole = matches!(tokio::time::timeout(LINGER, read).await, Ok(Ok(_)));
            self.whole.store(whole, Ordering::Relaxed);
        }
        if !self.whole.load(Ordering::Relaxed) && version <= Version::HTTP_11 {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

struct Watched {
    body: Body,
    taken: Taken,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.taken.whole.load(Ordering::Relaxed) {
            let rest = std::mem::take(&mut self.body);
            let mut kept = self
                .taken
                .rest
                .lock()
                .expect("no holder of this lock panics");
            *kept = Some(rest);
        }
    }
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.taken.begun.store(true, Ordering::Relaxed);
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.taken.whole.store(true, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What became of a request.
enum Answered {
    Here(Response),
    /// It is the object store's, which reads its body itself.
    Objects(Request),
}

impl From<Response> for Answered {
    fn from(response: Response) -> Self {
        Self::Here(response)
    }
}

async fn answer(controller: &Arc<Controller>, request: Request, request_id: &str) -> Answered {
    let (parts, body) = request.into_parts();
    let domain = controller
        .cluster
        .snapshot()
        .state
        .settings
        .s3_domain
        .clone();
    let domains = domain.as_deref();
    let headers = headers(&parts);
    let head = |parameters| RequestHead {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        headers: &headers,
        parameters,
    };
    let is_form = is_form(&parts);
    // What the head leaves open, the body may tell if it is a form: EC2's then, as most are.
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let in_query = form::parse(query).unwrap_or_default();
    let service = match route::destination(&head(&in_query), domains.as_slice()) {
        Destination::Aws(service) => service,
        Destination::S3 if is_form && may_be_ec2(&parts) => &shapes::ec2::SERVICE,
        Destination::S3 => return Answered::Objects(Request::from_parts(parts, body)),
        elsewhere => return elsewhere::refuse(&elsewhere, &parts, request_id).into(),
    };
    let body = match read_body(body).await {
        Ok(body) => body,
        Err(error) => return failure(service, &error, request_id).into(),
    };
    let parameters = match parameters(query, is_form.then_some(&body)) {
        Ok(parameters) => parameters,
        Err(error) => return failure(service, &error, request_id).into(),
    };
    let head = head(&parameters);
    let service = match route::destination(&head, domains.as_slice()) {
        Destination::Aws(service) => service,
        Destination::S3 => {
            let body = Body::from(body.clone());
            return Answered::Objects(Request::from_parts(parts.clone(), body));
        }
        elsewhere => return elsewhere::refuse(&elsewhere, &parts, request_id).into(),
    };
    let hash: [u8; 32] = Sha256::digest(&body).into();
    let account = auth::parse(&head)
        .and_then(|claim| identify(controller, &claim, &head, &hash, service.name))
        .map_err(|error| error.to_api_error(service.protocol));
    let outcome = match account {
        Ok(account) => act(controller, service, &parameters, account, request_id).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(response) => response.into(),
        Err(error) => failure(service, &error, request_id).into(),
    }
}

fn request_id() -> String {
    let r: u128 = rand::random();
    let hex = format!("{r:032x}");
    format!(
        "{}-{}-4{}-a{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}

/// A request's body within the limits of bytes and time.
pub async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    let limited = Limited::new(body, BODY_BYTES);
    match tokio::time::timeout(BODY_DEADLINE, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError {
            code: "RequestEntityTooLarge".into(),
            message: format!("A request may have up to {BODY_BYTES} bytes."),
            status: 413,
        }),
        Ok(Err(_)) => Err(ApiError::malformed_query(
            "The request's body could not be read.",
        )),
        Err(_) => Err(ApiError {
            code: "RequestTimeout".into(),
            message: "The request's body did not arrive in time.".into(),
            status: 408,
        }),
    }
}

/// Whether a form whose head names no service may be a request of EC2's, which come without a path and may
/// sign in the form.
fn may_be_ec2(parts: &Parts) -> bool {
    let authorization = parts.headers.get(header::AUTHORIZATION);
    let scope = authorization.and_then(|value| sigv4::header_credential(value.to_str().ok()?));
    parts.uri.path() == "/" && scope.is_none()
}

/// Whether the body has parameters. Some old clients don't say so.
fn is_form(parts: &Parts) -> bool {
    match parts.headers.get(header::CONTENT_TYPE) {
        Some(kind) => kind
            .as_bytes()
            .starts_with(b"application/x-www-form-urlencoded"),
        None => parts.method == Method::POST,
    }
}

/// Parameters of the query string and of a form.
fn parameters<'a>(query: &'a [u8], form: Option<&'a Bytes>) -> Result<Parameters<'a>, ApiError> {
    let mut parameters = form::parse(query)?;
    if let Some(form) = form.filter(|form| !form.is_empty()) {
        parameters.extend(form::parse(form)?);
    }
    Ok(parameters)
}

/// Headers as signatures cover them; HTTP/2 has `:authority` in place of `Host`.
pub fn headers(parts: &Parts) -> Vec<(&str, &[u8])> {
    let mut headers: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    if !parts.headers.contains_key(header::HOST)
        && let Some(authority) = parts.uri.authority()
    {
        headers.push(("host", authority.as_str().as_bytes()));
    }
    headers
}

/// Proves the claim and answers whose it is.
pub fn identify(
    controller: &Controller,
    claim: &Claim,
    head: &RequestHead<'_>,
    body_sha256: &[u8; 32],
    service: &str,
) -> Result<AccountId, AuthError> {
    let snapshot = controller.cluster.snapshot();
    let state: &Rows = &snapshot.state;
    let key = state
        .access_keys
        .get(claim.access_key())
        .ok_or(AuthError::UnknownKey)?;
    // STS is one global service whose clients sign for us-east-1 wherever they are.
    let regions: &[&str] = match service {
        "sts" => &[&state.settings.region, "us-east-1"],
        _ => &[&state.settings.region],
    };
    let demands = Demands {
        service,
        regions,
        max_skew_ms: auth::max_skew_ms(service),
    };
    claim.verify(
        &key.secret,
        head,
        body_sha256,
        &demands,
        boira_store::now().0,
    )?;
    Ok(key.owner.clone())
}

async fn act(
    controller: &Arc<Controller>,
    service: &'static Service,
    parameters: &[(Cow<'_, str>, Cow<'_, str>)],
    account: AccountId,
    request_id: &str,
) -> Result<Response, ApiError> {
    let action = form::get(parameters, "Action").ok_or_else(ApiError::missing_action)?;
    let operation = service.operation(action)?;
    let version = form::get(parameters, "Version").unwrap_or(service.version);
    let version = respond::accepted_version(operation, version)?;
    let request = decode::decode(operation, parameters)?;
    if service.name == "sts" {
        let answer = sts::call(operation, &account)?;
        return Ok(xml(respond::respond(
            operation, version, request_id, &answer,
        )));
    }
    let act = ec2::action(action).ok_or_else(|| ApiError::unsupported_operation(action))?;
    let dry = request.bool("DryRun") == Some(true);
    let call = Call {
        operation,
        request: Arc::new(request),
        account,
        now: boira_store::now(),
        facts: controller.facts.clone(),
    };
    if dry {
        let snapshot = controller.cluster.snapshot();
        return Err(ec2::dry_run(act, &call, &snapshot, rand::random()));
    }
    let answer = carry_out(controller, act, call).await?;
    Ok(write(operation, version, request_id, answer))
}

async fn carry_out(
    controller: &Arc<Controller>,
    act: &'static Act,
    call: Call,
) -> Result<Answer, ApiError> {
    match act {
        // With filters it can take long, which must keep nobody else waiting.
        Act::Read(read) if !call.request.list("Filters").is_empty() => {
            let (read, snapshot) = (*read, controller.cluster.snapshot());
            tokio::task::spawn_blocking(move || read(&call, &snapshot))
                .await
                .map_err(|error| ApiError::unavailable(error.to_string()))?
        }
        Act::Read(read) => read(&call, &controller.cluster.snapshot()),
        Act::Wait(check, wait) => {
            check(&call, &controller.cluster.snapshot().state)?;
            wait(call, controller.clone()).await
        }
        Act::Write(write) => {
            let write = *write;
            controller
                .cluster
                .decide(move |draft| write(&call, draft))
                .await
                .map_err(|error| ApiError::unavailable(error.to_string()))?
        }
    }
}

fn write(
    operation: &'static Operation,
    version: &str,
    request_id: &str,
    answer: Answer,
) -> Response {
    match answer {
        Answer::Done(answer) => xml(done(operation, version, request_id, &answer)),
        Answer::List {
            member,
            mut items,
            next,
        } => {
            let mut writer = respond::Response::new(operation, version, request_id);
            writer.begin_list(member);
            // Most lists fit one piece and are sent whole, with their length.
            for item in items.by_ref() {
                writer.item(&item);
                if writer.pending_bytes() > PIECE_BYTES {
                    return stream(writer, items, next);
                }
            }
            writer.end_list();
            writer.member("NextToken", next);
            xml(writer.finish())
        }
    }
}

fn done(
    operation: &'static Operation,
    version: &str,
    request_id: &str,
    answer: &Struct,
) -> Vec<u8> {
    match operation.output() {
        Some(_) => respond::respond(operation, version, request_id, answer),
        None => respond::Response::new(operation, version, request_id).finish(),
    }
}

/// Sends a long list piece by piece; a slow reader holds one piece in memory.
fn stream(
    mut writer: respond::Response,
    items: Box<dyn Iterator<Item = boira_api::value::Value> + Send>,
    next: Option<String>,
) -> Response {
    let first = writer.take();
    let mut rest = Some((writer, items, next));
    let pieces = std::iter::once(first).chain(std::iter::from_fn(move || {
        let (mut writer, mut items, next) = rest.take()?;
        for item in items.by_ref() {
            writer.item(&item);
            if writer.pending_bytes() > PIECE_BYTES {
                let piece = writer.take();
                rest = Some((writer, items, next));
                return Some(piece);
            }
        }
        writer.end_list();
        writer.member("NextToken", next);
        Some(writer.finish())
    }));
    let pieces = pieces.map(|piece| Ok::<_, std::convert::Infallible>(Bytes::from(piece)));
    let body = Body::from_stream(futures_util::stream::iter(pieces));
    ([(header::CONTENT_TYPE, respond::CONTENT_TYPE)], body).into_response()
}

fn xml(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, respond::CONTENT_TYPE)], body).into_response()
}

fn failure(service: &'static Service, error: &ApiError, request_id: &str) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
    (status, xml(error.to_xml(service, request_id))).into_response()
}
