//! The face of the decisions: [`Core`] and the values it answers with.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use oqim_engine::admit::{self, Call, Card, Fresh, Merchant, Missing, Refused, Settings, Stop};
use oqim_engine::book;
use oqim_engine::frame;
use oqim_engine::limits::{Judgement, Verdict};
use oqim_engine::pan::is_pan;
use oqim_engine::problem;
use oqim_engine::record::Record;
use oqim_engine::request::{read_canonical, Destination};
use oqim_engine::revocation::RevocationKind;
use oqim_engine::routing::RoutingTable;
use oqim_engine::token::Claims as EngineClaims;
use oqim_engine::window;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PySequence, PyTuple};
use pyo3::IntoPyObjectExt as _;

use crate::rules::{change_of, RuleSet};

/// Does a piece of the core's work; a panic in it becomes an ordinary exception.
///
/// PyO3's own for a panic is no `Exception`: it would pass every handler, and whoever waits for a
/// batch would wait for ever.
pub fn guarded<T>(work: impl FnOnce() -> T) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| PyRuntimeError::new_err("the core has a fault; nothing was decided"))
}

pub fn value_error(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// A refusal: its status, its slug and its `application/problem+json` body.
#[pyclass(frozen, module = "gateway._core")]
pub struct Refusal {
    inner: Refused,
}

#[pymethods]
impl Refusal {
    #[getter]
    fn status(&self) -> u16 {
        self.inner.refusal.status()
    }

    #[getter]
    fn slug(&self) -> &str {
        self.inner.refusal.slug
    }

    #[getter]
    fn detail(&self) -> &str {
        &self.inner.refusal.detail
    }

    /// `(scope, fingerprint)` when an earlier answer under the same key takes precedence.
    #[getter]
    fn idempotency<'py>(
        &self,
        py: Python<'py>,
    ) -> Option<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        self.inner.idempotency.map(|one| pair(py, &one))
    }

    /// `(owner, merchant, record)` when a decision was made that is to be stored.
    #[getter]
    fn decision<'py>(&self, py: Python<'py>) -> Option<(&str, Option<&str>, Bound<'py, PyBytes>)> {
        self.inner.decided.as_ref().map(|decided| {
            let record = PyBytes::new(py, &decided.record);
            (decided.owner.as_str(), decided.merchant.as_deref(), record)
        })
    }

    /// `decision_id` names the stored decision, if there is one.
    #[pyo3(signature = (request_id, decision_id=None))]
    fn body<'py>(
        &self,
        py: Python<'py>,
        request_id: &str,
        decision_id: Option<&str>,
    ) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.refusal.body(request_id, decision_id))
    }
}

fn pair<'py>(
    py: Python<'py>,
    one: &frame::Idempotency,
) -> (Bound<'py, PyBytes>, Bound<'py, PyBytes>) {
    (
        PyBytes::new(py, &one.scope),
        PyBytes::new(py, &one.fingerprint),
    )
}

/// Who asks: the claims of a verified access token.
#[pyclass(frozen, module = "gateway._core")]
pub struct Claims {
    inner: Arc<EngineClaims>,
}

#[pymethods]
impl Claims {
    #[getter]
    fn sub(&self) -> &str {
        &self.inner.sub
    }

    #[getter]
    fn client_id(&self) -> &str {
        &self.inner.client_id
    }

    #[getter]
    fn scope(&self) -> Vec<String> {
        self.inner.scope.clone()
    }

    #[getter]
    fn sid(&self) -> &str {
        &self.inner.sid
    }

    #[getter]
    fn jti(&self) -> &str {
        &self.inner.jti
    }

    #[getter]
    fn iat(&self) -> i64 {
        self.inner.iat
    }

    #[getter]
    fn exp(&self) -> i64 {
        self.inner.exp
    }

    #[getter]
    fn tier(&self) -> &str {
        &self.inner.tier
    }

    #[getter]
    fn channel(&self) -> &str {
        &self.inner.channel
    }

    /// Thumbprint of the key that must be proven; "" for a token that is its bearer's.
    #[getter]
    fn jkt(&self) -> &str {
        &self.inner.jkt
    }
}

/// What the core must be given before it can decide.
#[pyclass(frozen, module = "gateway._core", name = "Missing")]
pub struct MissingFacts {
    inner: Missing,
}

#[pymethods]
impl MissingFacts {
    #[getter]
    fn cards(&self) -> Vec<String> {
        self.inner.cards.clone()
    }

    #[getter]
    fn merchants(&self) -> Vec<String> {
        self.inner.merchants.clone()
    }

    #[getter]
    fn subjects(&self) -> Vec<String> {
        self.inner.subjects.clone()
    }
}

/// What a plan charges for an amount.
#[pyclass(frozen, module = "gateway._core")]
pub struct Commission {
    inner: oqim_engine::commission::Commission,
}

#[pymethods]
impl Commission {
    #[getter]
    fn total(&self) -> i64 {
        self.inner.total
    }

    #[getter]
    fn vat_total(&self) -> i64 {
        self.inner.vat_total()
    }

    #[getter]
    fn payer(&self) -> &str {
        &self.inner.payer
    }

    #[getter]
    fn plan(&self) -> &str {
        &self.inner.plan
    }

    #[getter]
    fn version(&self) -> u32 {
        self.inner.version
    }

    #[getter]
    fn total_debit(&self) -> i64 {
        self.inner.total_debit
    }

    #[getter]
    fn total_credit(&self) -> i64 {
        self.inner.total_credit
    }

    /// `[(party, minor units), ...]` in the plan's order; empty when it is not divided.
    #[getter]
    fn split(&self) -> Vec<(String, i64)> {
        self.inner.split.clone()
    }

    /// JSON of every line, with what is needed to compute it again.
    #[getter]
    fn lines(&self) -> String {
        self.inner.lines_json()
    }
}

/// A payment that may go on to the journal.
#[pyclass(frozen, module = "gateway._core")]
pub struct Admission {
    /// Large, and not copied on its way to Python.
    inner: Box<admit::Admission>,
}

#[pymethods]
impl Admission {
    #[getter]
    fn idempotency<'py>(&self, py: Python<'py>) -> (Bound<'py, PyBytes>, Bound<'py, PyBytes>) {
        pair(py, &self.inner.idempotency)
    }

    #[getter]
    fn sub(&self) -> &str {
        &self.inner.claims.sub
    }

    #[getter]
    fn client_id(&self) -> &str {
        &self.inner.claims.client_id
    }

    #[getter]
    fn operation(&self) -> &str {
        self.inner.request.operation
    }

    #[getter]
    fn amount_minor(&self) -> i64 {
        self.inner.request.amount
    }

    #[getter]
    fn currency(&self) -> &str {
        &self.inner.request.currency
    }

    #[getter]
    fn scheme(&self) -> &str {
        &self.inner.scheme
    }

    #[getter]
    fn source_card(&self) -> Option<&str> {
        self.inner.request.source_card.as_deref()
    }

    #[getter]
    fn source_version(&self) -> Option<i32> {
        self.inner.source_version
    }

    #[getter]
    fn destination_card(&self) -> Option<&str> {
        match &self.inner.request.destination {
            Destination::Card(id) => Some(id),
            _ => None,
        }
    }

    #[getter]
    fn destination_pan(&self) -> Option<&str> {
        match &self.inner.request.destination {
            Destination::Pan(pan) => Some(pan),
            _ => None,
        }
    }

    #[getter]
    fn merchant(&self) -> Option<&str> {
        self.inner.merchant.as_deref()
    }

    #[getter]
    fn is_manual_capture(&self) -> bool {
        self.inner.request.is_manual_capture
    }

    #[getter]
    fn description(&self) -> Option<&str> {
        self.inner.request.description.as_deref()
    }

    #[getter]
    fn purpose(&self) -> Option<&str> {
        self.inner.request.purpose.as_deref()
    }

    /// Canonical JSON of the client's own pairs.
    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.request.metadata)
    }

    #[getter]
    fn commission(&self) -> Commission {
        Commission {
            inner: self.inner.commission.clone(),
        }
    }

    /// `[(connector, kind), ...]` in the order they are sent.
    #[getter]
    fn legs(&self) -> Vec<(String, String)> {
        self.inner
            .legs
            .iter()
            .map(|leg| (leg.connector.clone(), leg.kind.clone()))
            .collect()
    }

    #[getter]
    fn at_ms(&self) -> i64 {
        self.inner.at_ms
    }

    /// Whether a stronger authentication must be given first; nothing is reserved then.
    #[getter]
    fn is_step_up(&self) -> bool {
        self.inner.verdict == Verdict::StepUp
    }

    /// The policies that ask for it, in the precedence of their reasons.
    #[getter]
    fn step_up_policies(&self) -> Vec<String> {
        self.inner.step_up_policies().map(str::to_owned).collect()
    }

    /// The decision as it was made when the payment was admitted, in its stored form.
    #[getter]
    fn record<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.record())
    }
}

/// A batch judged and ready to be written.
#[pyclass(frozen, module = "gateway._core")]
pub struct Staged {
    inner: book::Staged,
    /// The stored form of each admitted one's decision, same order.
    records: Vec<Vec<u8>>,
    refused: Vec<(usize, Py<PyAny>)>,
}

impl Staged {
    fn new(py: Python<'_>, inner: book::Staged, batch: &[&admit::Admission]) -> PyResult<Self> {
        let records = inner
            .admitted
            .iter()
            .filter_map(|(index, judgement)| Some(batch.get(*index)?.record_of(judgement)))
            .collect();
        let refused = inner
            .refused
            .iter()
            .filter_map(|(index, judgement)| Some((*index, *batch.get(*index)?, judgement)))
            .map(|(index, admission, judgement)| {
                Ok((index, refused_later(py, admission, judgement)?))
            })
            .collect::<PyResult<_>>()?;
        Ok(Self {
            inner,
            records,
            refused,
        })
    }
}

/// What a member of a batch is told that could be admitted, and no longer can.
fn refused_later(
    py: Python<'_>,
    admission: &admit::Admission,
    judgement: &Judgement,
) -> PyResult<Py<PyAny>> {
    if judgement.verdict == Verdict::StepUp {
        let inner = Box::new(admission.stepping_up(judgement.clone()));
        return Admission { inner }.into_py_any(py);
    }
    Refusal {
        inner: admission.refused(judgement),
    }
    .into_py_any(py)
}

#[pymethods]
impl Staged {
    /// Subjects to write, in key order.
    #[getter]
    fn subjects(&self) -> Vec<String> {
        self.inner
            .writes
            .iter()
            .map(|(subject, _, _)| subject.to_string())
            .collect()
    }

    /// The versions the database must still hold, same order.
    #[getter]
    fn versions(&self) -> Vec<i64> {
        self.inner
            .writes
            .iter()
            .map(|(_, version, _)| *version)
            .collect()
    }

    /// The next states, same order.
    #[getter]
    fn states<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        self.inner
            .writes
            .iter()
            .map(|(_, _, state)| PyBytes::new(py, state))
            .collect()
    }

    /// Places in the batch of those to write.
    #[getter]
    fn admitted(&self) -> Vec<usize> {
        self.inner
            .admitted
            .iter()
            .map(|(index, _)| *index)
            .collect()
    }

    /// The decisions of those to write, in their stored form, same order.
    #[getter]
    fn records<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        self.records
            .iter()
            .map(|record| PyBytes::new(py, record))
            .collect()
    }

    /// Places in the batch of those that cannot be written, each with a refusal, or with the
    /// admission of one that waits for a stronger authentication.
    #[getter]
    fn refused(&self, py: Python<'_>) -> Vec<(usize, Py<PyAny>)> {
        self.refused
            .iter()
            .map(|(index, one)| (*index, one.clone_ref(py)))
            .collect()
    }

    /// Places in the batch of those that must wait for another batch, or for `missing`.
    #[getter]
    fn deferred(&self) -> Vec<usize> {
        self.inner.deferred.clone()
    }

    /// Subjects to read before the deferred can be staged.
    #[getter]
    fn missing(&self) -> Vec<String> {
        self.inner.missing.iter().map(ToString::to_string).collect()
    }
}

/// Header names and values as `((name, value), ...)` of bytes; a tuple, as which they nearly always
/// come, can be looked into without a reference to each.
struct RawHeaders<'py>(Bound<'py, PyTuple>);

impl<'a, 'py> FromPyObject<'a, 'py> for RawHeaders<'py> {
    type Error = PyErr;

    fn extract(headers: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        match headers.cast::<PyTuple>() {
            Ok(tuple) => Ok(Self(tuple.to_owned())),
            Err(_) => Ok(Self(headers.cast::<PySequence>()?.to_tuple()?)),
        }
    }
}

impl RawHeaders<'_> {
    fn borrowed(&self) -> PyResult<Vec<(&[u8], &[u8])>> {
        let mut pairs = Vec::with_capacity(self.0.len());
        for pair in self.0.iter_borrowed() {
            pairs.push(pair.extract()?);
        }
        Ok(pairs)
    }
}

fn refusal(refusal: problem::Refusal) -> Refusal {
    Refusal {
        inner: Refused {
            refusal,
            idempotency: None,
            decided: None,
        },
    }
}

/// A refusal or what is missing, as the Python object that says so.
fn stopped(py: Python<'_>, stop: Stop) -> PyResult<Py<PyAny>> {
    match stop {
        Stop::Refused(inner) => Refusal { inner: *inner }.into_py_any(py),
        Stop::Missing(inner) => MissingFacts { inner }.into_py_any(py),
    }
}

/// `(parties, states)`: what was read from the database for this call.
fn fresh_of((parties, states): (bool, bool)) -> Fresh {
    Fresh { parties, states }
}

/// One worker's core: rules, verified tokens, revocations, cards and limit states in memory.
#[pyclass(module = "gateway._core")]
pub struct Core {
    inner: admit::Core,
}

#[pymethods]
impl Core {
    /// `generation` numbers the set of rules. Raises ValueError when the routing cannot be read.
    #[new]
    #[pyo3(signature = (*, rules, generation, routing, issuer, audience, lookup_key, quote_key, quote_ttl_ms,
        feed_age_ms_max, token_cache_size_max, card_cache_size_max, subject_cache_size_max))]
    #[expect(
        clippy::too_many_arguments,
        reason = "keyword-only settings, each named by the caller"
    )]
    fn new(
        rules: &RuleSet,
        generation: u64,
        routing: &[u8],
        issuer: String,
        audience: String,
        lookup_key: Vec<u8>,
        quote_key: Vec<u8>,
        quote_ttl_ms: i64,
        feed_age_ms_max: i64,
        token_cache_size_max: usize,
        card_cache_size_max: usize,
        subject_cache_size_max: usize,
    ) -> PyResult<Self> {
        let settings = Settings {
            issuer,
            audience,
            lookup_key,
            quote_key,
            quote_ttl_ms,
            feed_age_ms_max,
            token_cache_size_max,
            card_cache_size_max,
            subject_cache_size_max,
        };
        let routing = RoutingTable::read(routing).map_err(value_error)?;
        Ok(Self {
            inner: admit::Core::new(settings, Arc::clone(&rules.inner), generation, routing),
        })
    }

    /// Decides by another set of rules from the next decision on.
    fn use_rules(&mut self, rules: &RuleSet, generation: u64) {
        self.inner.use_rules(Arc::clone(&rules.inner), generation);
    }

    /// The number of the set of rules in use.
    #[getter]
    fn generation(&self) -> u64 {
        self.inner.generation()
    }

    /// Adds a verification key: 32 bytes (RFC 8032).
    fn add_key(&mut self, kid: &str, public_key: &[u8]) -> PyResult<()> {
        self.inner
            .verifier
            .add_key(kid, public_key)
            .map_err(value_error)
    }

    /// Forgets a verification key, and every token it signed.
    fn remove_key(&mut self, kid: &str) {
        self.inner.verifier.remove_key(kid);
    }

    /// `kind` is `jti`, `sid`, `sub` or `client`; times are Unix seconds.
    fn revoke(
        &mut self,
        seq: i64,
        kind: &str,
        value: &str,
        not_before_s: i64,
        expires_s: i64,
    ) -> PyResult<()> {
        let kind = RevocationKind::parse(kind)
            .ok_or_else(|| PyValueError::new_err("kind must be jti, sid, sub or client"))?;
        self.inner
            .revocations
            .apply(seq, kind, value, not_before_s, expires_s);
        Ok(())
    }

    /// Says that every revocation was known at `now_ms`; forgets those that no longer matter.
    fn mark_fresh(&mut self, now_ms: i64) {
        self.inner.revocations.mark_fresh(now_ms);
        self.inner.revocations.expire(now_ms.div_euclid(1_000));
    }

    #[getter]
    fn applied_seq(&self) -> i64 {
        self.inner.revocations.applied_seq()
    }

    #[expect(clippy::too_many_arguments, reason = "one row of a table")]
    fn put_card(
        &mut self,
        id: &str,
        owner: String,
        scheme: String,
        bin: String,
        lookup: String,
        is_active: bool,
        version: i32,
    ) {
        let card = Card {
            owner,
            scheme,
            bin,
            lookup,
            is_active,
            version,
        };
        self.inner.put_card(id, Some(card));
    }

    /// Remembers that there is no such card.
    fn put_no_card(&mut self, id: &str) {
        self.inner.put_card(id, None);
    }

    fn forget_card(&mut self, id: &str) {
        self.inner.forget_card(id);
    }

    fn put_merchant(&mut self, id: &str, mcc: String, country: String) {
        self.inner.put_merchant(id, Some(Merchant { mcc, country }));
    }

    fn put_no_merchant(&mut self, id: &str) {
        self.inner.put_merchant(id, None);
    }

    /// Takes a limit state as the database holds it; no row is version 0 and no bytes.
    fn load_state(&mut self, subject: &str, version: i64, state: &[u8]) -> PyResult<()> {
        self.inner
            .book
            .load(subject, version, state)
            .map_err(value_error)
    }

    fn authorize(
        &mut self,
        py: Python<'_>,
        headers: RawHeaders<'_>,
        scope: &str,
        now_ms: i64,
    ) -> PyResult<Py<PyAny>> {
        let headers = headers.borrowed()?;
        match guarded(|| self.inner.authorize(&headers, scope, now_ms))? {
            Ok(inner) => Claims { inner }.into_py_any(py),
            Err(inner) => refusal(inner).into_py_any(py),
        }
    }

    /// What a token says, whoever holds it and however it would have to be sent.
    fn inspect(&mut self, py: Python<'_>, token: &[u8], now_ms: i64) -> PyResult<Py<PyAny>> {
        match guarded(|| self.inner.inspect(token, now_ms))? {
            Ok(inner) => Claims { inner }.into_py_any(py),
            Err(inner) => refusal(inner).into_py_any(py),
        }
    }

    /// A refusal when revocations have not been read lately, else None.
    fn check_feed(&self, now_ms: i64) -> Option<Refusal> {
        self.inner.check_feed(now_ms).err().map(refusal)
    }

    /// How each cache was used: its name, entries now, hits and misses so far.
    fn cache_usage(&self) -> Vec<(&'static str, usize, u64, u64)> {
        self.inner
            .cache_usage()
            .into_iter()
            .map(|(name, usage)| (name, usage.size, usage.hits, usage.misses))
            .collect()
    }

    /// `is_stepped_up`: a stronger authentication was given for it.
    #[pyo3(signature = (method, path, headers, body, now_ms, fresh, is_stepped_up=false))]
    #[expect(
        clippy::too_many_arguments,
        reason = "one HTTP request, field by field"
    )]
    fn admit(
        &mut self,
        py: Python<'_>,
        method: &str,
        path: &str,
        headers: RawHeaders<'_>,
        body: &[u8],
        now_ms: i64,
        fresh: (bool, bool),
        is_stepped_up: bool,
    ) -> PyResult<Py<PyAny>> {
        let headers = headers.borrowed()?;
        let call = Call {
            method,
            path,
            headers: &headers,
            body,
            now_ms,
            fresh: fresh_of(fresh),
            is_stepped_up,
        };
        match guarded(|| self.inner.admit(call).map(Box::new))? {
            Ok(inner) => Admission { inner }.into_py_any(py),
            Err(stop) => stopped(py, stop),
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one HTTP request, field by field"
    )]
    fn quote(
        &mut self,
        py: Python<'_>,
        method: &str,
        path: &str,
        headers: RawHeaders<'_>,
        body: &[u8],
        now_ms: i64,
        fresh: (bool, bool),
    ) -> PyResult<Py<PyAny>> {
        let headers = headers.borrowed()?;
        let call = Call {
            method,
            path,
            headers: &headers,
            body,
            now_ms,
            fresh: fresh_of(fresh),
            is_stepped_up: false,
        };
        match guarded(|| self.inner.quote(call))? {
            Ok(answer) => PyBytes::new(py, &answer).into_py_any(py),
            Err(stop) => stopped(py, stop),
        }
    }

    fn limits(
        &mut self,
        py: Python<'_>,
        claims: &Claims,
        card: &str,
        operation: &str,
        now_ms: i64,
        fresh: (bool, bool),
    ) -> PyResult<Py<PyAny>> {
        let fresh = fresh_of(fresh);
        let claims = &claims.inner;
        match guarded(|| self.inner.limits(claims, card, operation, now_ms, fresh))? {
            Ok(answer) => PyBytes::new(py, &answer).into_py_any(py),
            Err(stop) => stopped(py, stop),
        }
    }

    /// Judges a batch of admissions again, for the write that makes them durable.
    fn stage(&mut self, py: Python<'_>, batch: Vec<PyRef<'_, Admission>>) -> PyResult<Staged> {
        let batch: Vec<&admit::Admission> = batch.iter().map(|one| &*one.inner).collect();
        let staged = guarded(|| self.inner.stage(&batch))?;
        Staged::new(py, staged, &batch)
    }

    /// Prepares headroom given back: `(record, change)`, where a change is `None` for a payment
    /// that ended, `(captured,)`, or `(captured, refunded before, refunded after)`.
    fn stage_give_back(
        &mut self,
        py: Python<'_>,
        batch: Vec<(PyBackedBytes, Option<Vec<i64>>)>,
    ) -> PyResult<Staged> {
        let batch = batch
            .iter()
            .map(|(record, change)| {
                let change = change_of(change.as_deref())?;
                let record = Record::read(record).map_err(value_error)?;
                guarded(|| record.given_back(change))
            })
            .collect::<PyResult<Vec<_>>>()?;
        let staged = guarded(|| self.inner.book.stage_give_back(&batch))?;
        Staged::new(py, staged, &[])
    }

    fn commit(&mut self, staged: &Staged) -> PyResult<()> {
        guarded(|| self.inner.book.commit(&staged.inner))
    }

    fn unstage(&mut self, staged: &Staged) -> PyResult<()> {
        guarded(|| self.inner.book.unstage(&staged.inner))
    }

    fn roll_back(&mut self, staged: &Staged) -> PyResult<()> {
        guarded(|| self.inner.book.roll_back(&staged.inner))
    }

    /// Forgets an admission that will not be committed.
    fn release(&mut self, admission: &Admission) -> PyResult<()> {
        guarded(|| self.inner.release(&admission.inner))
    }

    /// What a plan's version charges for an amount.
    fn commission(
        &self,
        py: Python<'_>,
        plan: &str,
        version: u32,
        amount_minor: i64,
    ) -> PyResult<Py<PyAny>> {
        match guarded(|| self.inner.commission(plan, version, amount_minor))? {
            Ok(inner) => Commission { inner }.into_py_any(py),
            Err(inner) => refusal(inner).into_py_any(py),
        }
    }

    /// What of a commission has been given back once `refunded` of `captured` has been refunded.
    fn commission_returned(
        &self,
        py: Python<'_>,
        plan: &str,
        version: u32,
        total: i64,
        captured: i64,
        refunded: i64,
    ) -> PyResult<Py<PyAny>> {
        match self
            .inner
            .commission_returned(plan, version, total, captured, refunded)
        {
            Ok(amount) => amount.into_py_any(py),
            Err(inner) => refusal(inner).into_py_any(py),
        }
    }

    fn scheme_of(&self, pan: &str) -> Option<&str> {
        self.inner.scheme_of(pan)
    }

    fn lookup_of(&self, pan: &str) -> String {
        self.inner.lookup_of(pan)
    }
}

/// Reads a JSON body by the one strict parser; returns its canonical bytes, or a refusal.
#[pyfunction]
fn read_body(py: Python<'_>, headers: RawHeaders<'_>, body: &[u8]) -> PyResult<Py<PyAny>> {
    let headers = headers.borrowed()?;
    let read = || -> Result<Vec<u8>, problem::Refusal> {
        frame::check_media(&headers, body)?;
        read_canonical(body)
    };
    match read() {
        Ok(canonical) => PyBytes::new(py, &canonical).into_py_any(py),
        Err(inner) => refusal(inner).into_py_any(py),
    }
}

/// `(scope, fingerprint)` of a request that moves money, or a refusal.
#[pyfunction]
fn idempotency(
    py: Python<'_>,
    claims: &Claims,
    method: &str,
    path: &str,
    headers: RawHeaders<'_>,
    canonical_body: &[u8],
) -> PyResult<Py<PyAny>> {
    match frame::idempotency_key(&headers.borrowed()?) {
        Ok(key) => {
            let one = frame::idempotency_of(&claims.inner, method, path, &key, canonical_body);
            pair(py, &one).into_py_any(py)
        }
        Err(inner) => refusal(inner).into_py_any(py),
    }
}

/// `[(slug, status, retryable, title), ...]`: every problem there is.
#[pyfunction]
fn problem_kinds() -> Vec<(&'static str, u16, bool, &'static str)> {
    problem::KINDS
        .iter()
        .map(|kind| (kind.slug, kind.status, kind.retryable, kind.title))
        .collect()
}

/// 12 to 19 ASCII digits with a valid Luhn check digit.
#[pyfunction(name = "is_pan")]
fn is_pan_text(text: &str) -> bool {
    is_pan(text)
}

/// RFC 3339 in Asia/Tashkent.
#[pyfunction]
fn rfc3339(at_ms: i64) -> PyResult<String> {
    guarded(|| window::rfc3339(at_ms))
}

/// `(year, month)` in Asia/Tashkent.
#[pyfunction]
fn year_month(at_ms: i64) -> PyResult<(i64, i64)> {
    guarded(|| window::year_month(at_ms))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Core>()?;
    module.add_class::<Refusal>()?;
    module.add_class::<Claims>()?;
    module.add_class::<MissingFacts>()?;
    module.add_class::<Commission>()?;
    module.add_class::<Admission>()?;
    module.add_class::<Staged>()?;
    module.add_function(wrap_pyfunction!(read_body, module)?)?;
    module.add_function(wrap_pyfunction!(idempotency, module)?)?;
    module.add_function(wrap_pyfunction!(problem_kinds, module)?)?;
    module.add_function(wrap_pyfunction!(is_pan_text, module)?)?;
    module.add_function(wrap_pyfunction!(rfc3339, module)?)?;
    module.add_function(wrap_pyfunction!(year_month, module)?)
}
