//! What every Describe has in common: ids that must exist, filters, and pages.
//!
//! ```text
//! request ── Listing::ask ──► Ask ── select(own rows) ──► rows of this page ── list ──► Answer
//! ```

use super::{Answer, Call, Outcome};
use boira_api::ApiError;
use boira_api::filter::Filters;
use boira_api::id::IdKind;
use boira_api::page::{self, Page, Paged};
use boira_api::value::Value;
use boira_core::State;
use std::collections::BTreeMap;

/// How one kind of resource is listed.
pub struct Listing {
    pub ids: Option<Ids>,
    /// AWS's names of filters for this action, without those for tags.
    pub filters: &'static [&'static str],
    /// Whether the resource has tags to filter by.
    pub tagged: bool,
    /// What `MaxResults` may be; without effect where the action has no such parameter.
    pub page: (i64, i64),
}

/// The parameter that names resources by id.
pub struct Ids {
    pub member: &'static str,
    pub kind: &'static IdKind,
    /// EC2's own name of the parameter (`instancesSet`), where it can't stand beside `MaxResults`.
    pub set: Option<&'static str>,
}

/// Which rows a request asks for.
pub struct Ask<'a> {
    call: &'a Call,
    ids: Vec<String>,
    kind: Option<&'static IdKind>,
    pub filters: Filters,
    page: Page,
    paged: Paged<'a>,
}

/// The usual bounds of `MaxResults`.
pub const PAGE: (i64, i64) = (5, 1000);

impl Listing {
    /// Reads ids, filters and page of a request that may have no other parameters. `state` gives
    /// the seal of page tokens.
    ///
    /// # Errors
    /// Malformed ids, unknown filters, `MaxResults` out of bounds or beside ids, `InvalidNextToken`.
    pub fn ask<'a>(&self, call: &'a Call, state: &'a State) -> Result<Ask<'a>, ApiError> {
        self.ask_with(call, state, &[])
    }

    /// [`Listing::ask`] where the caller honours the parameters `more` itself.
    pub fn ask_with<'a>(
        &self,
        call: &'a Call,
        state: &'a State,
        more: &[&str],
    ) -> Result<Ask<'a>, ApiError> {
        let ids_member = self.ids.as_ref().map_or("", |ids| ids.member);
        // No resource here is managed by somebody else, so both values list the same.
        let common = [
            "Filters",
            "IncludeManagedResources",
            "MaxResults",
            "NextToken",
            ids_member,
        ];
        call.honours(&[&common, more].concat())?;
        let mut ids = Vec::new();
        if let Some(Ids { member, kind, set }) = &self.ids {
            ids = call.strings(member);
            for id in &ids {
                kind.validate(id)?;
            }
            if let Some(set) = set {
                page::refuse_ids_with_max_results(&call.request, member, set)?;
            }
        }
        let paged = Paged {
            key: seal_key(call, state),
            operation: call.operation.name,
            account: call.account.as_str(),
            min: self.page.0,
            max: self.page.1,
        };
        Ok(Ask {
            call,
            ids,
            kind: self.ids.as_ref().map(|ids| ids.kind),
            filters: Filters::of(&call.request, self.filters, self.tagged)?,
            page: paged.page(&call.request)?,
            paged,
        })
    }
}

/// A token gives no rights, it only says where the caller's own list goes on; so the seal needs to
/// outlive restarts more than it needs secrecy.
fn seal_key<'a>(call: &Call, state: &'a State) -> &'a [u8] {
    state
        .accounts
        .get(&call.account)
        .map_or(b"", |row| row.default_vpc.as_str().as_bytes())
}

impl Ask<'_> {
    /// The ids that the request names, none when it asks for everything.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The rows of this page, in the order of their ids, and the next page's token.
    ///
    /// `own` are all rows that the caller may see, `find` looks one up by its id, `passes` applies the
    /// filters.
    ///
    /// # Errors
    /// The kind's NotFound with every id that isn't there.
    pub fn select<T>(
        &self,
        own: impl IntoIterator<Item = T>,
        find: impl Fn(&str) -> Option<T>,
        id: impl Fn(&T) -> &str,
        passes: impl Fn(&T) -> bool,
    ) -> Result<(Vec<T>, Option<String>), ApiError> {
        let Some(kind) = self.kind.filter(|_| !self.ids.is_empty()) else {
            let rows = own.into_iter().filter(|row| passes(row));
            return Ok(self.paged.cut(&self.page, rows, id));
        };
        let mut found = BTreeMap::new();
        let mut missing: Vec<&str> = Vec::new();
        for name in &self.ids {
            match find(name) {
                Some(row) => drop(found.insert(name.as_str(), row)),
                None if missing.contains(&name.as_str()) => {}
                None => missing.push(name),
            }
        }
        if !missing.is_empty() {
            return Err(kind.not_found(&missing));
        }
        let rows = found.into_values().filter(|row| passes(row));
        Ok(self.paged.cut(&self.page, rows, id))
    }

    /// [`Ask::select`] for rows in a list: those of the caller, sorted by id.
    pub fn select_from<T>(
        &self,
        mut own: Vec<T>,
        id: impl Fn(&T) -> &str,
        passes: impl Fn(&T) -> bool,
    ) -> Result<(Vec<T>, Option<String>), ApiError> {
        if self.ids.is_empty() {
            return self.select(own, |_| None, id, passes);
        }
        let missing: Vec<&str> = self
            .ids
            .iter()
            .map(String::as_str)
            .filter(|name| !own.iter().any(|row| id(row) == *name))
            .collect();
        if let Some(kind) = self.kind
            && !missing.is_empty()
        {
            return Err(kind.not_found(&missing));
        }
        own.retain(|row| self.ids.iter().any(|name| id(row) == name) && passes(row));
        Ok(self.paged.cut(&self.page, own, id))
    }

    /// The answer whose list `member` has an item per row. Items are made while they are written;
    /// actions without pages answer short lists, which are made at once.
    pub fn list<T: Send + 'static>(
        &self,
        member: &'static str,
        (rows, next): (Vec<T>, Option<String>),
        item: impl Fn(&Call, T) -> Value + Send + 'static,
    ) -> Outcome {
        let call = self.call.clone();
        let items = rows.into_iter().map(move |row| item(&call, row));
        let answer = self.call.answer();
        if answer.shape().member_index("NextToken").is_none() {
            return Ok(Answer::Done(answer.with(member, items.collect::<Vec<_>>())));
        }
        Ok(Answer::List {
            member,
            items: Box::new(items),
            next,
        })
    }
}
