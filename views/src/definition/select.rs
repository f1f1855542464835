//! The `SELECT` of a view: what of SQL it may be, and settling what SQL leaves open.
//!
//! A view is `SELECT … FROM source [WHERE …] GROUP BY … [HAVING …]`. Everything refused here cannot be kept exactly by
//! merging states, or is not supported yet; the reason says which.
//!
//! Aggregates that depend on the order of their input (`first_value`, `last_value`, `array_agg`, `string_agg`) would give an
//! answer that depends on how the log was chopped up. So ties are broken by log order: `_partition, _offset` is
//! appended to their `ORDER BY`. With `DISTINCT` the places are gone, and the order is by the value.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArguments,
    GroupByExpr, Ident, OrderByExpr, OrderByOptions, Query, Select, SetExpr, TableFactor, visit_expressions_mut,
};

use super::statement::Statement;
use crate::error::Problem;

const ORDER_DEPENDENT: [&str; 4] = ["first_value", "last_value", "array_agg", "string_agg"];

/// Refuses what a view cannot be, and settles the order inside aggregates.
pub(super) fn settle(statement: &Statement, query: &mut Query, problems: &mut Vec<Problem>) {
    refuse_clauses(statement, query, problems);
    let _ = visit_expressions_mut(query, |expression| {
        match expression {
            Expr::Function(function) => settle_function(statement, function, problems),
            Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => {
                let reason = "a subquery is not supported: a view reads each event once, by itself";
                problems.push(statement.problem_near("select", reason));
            }
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
}

fn refuse_clauses(statement: &Statement, query: &Query, problems: &mut Vec<Problem>) {
    let mut refuse = |word: &str, message: &str| problems.push(statement.problem_near(word, message));
    if query.with.is_some() {
        refuse("with", "WITH (a common table expression) is not supported: select from a source");
    }
    if query.order_by.is_some() {
        refuse("order", "ORDER BY is not part of a view: give `order=` with a lookup");
    }
    if query.limit_clause.is_some() || query.fetch.is_some() {
        refuse(
            "limit",
            "LIMIT is not part of a view: the rows left out could not be kept; give `limit=` with a lookup",
        );
    }
    let SetExpr::Select(select) = query.body.as_ref() else {
        refuse("union", "only a plain SELECT can be a view: UNION, EXCEPT, INTERSECT and VALUES are not supported");
        return;
    };
    let Select { distinct, from, group_by, qualify, named_window, lateral_views, .. } = select.as_ref();
    if distinct.is_some() {
        refuse("distinct", "SELECT DISTINCT is not supported: name the columns in GROUP BY");
    }
    match from.as_slice() {
        [table] if !table.joins.is_empty() => {
            refuse(
                "join",
                "a JOIN is not supported: an event may have to wait for its match, so no state can be merged",
            );
        }
        [table] => {
            if !matches!(table.relation, TableFactor::Table { args: None, .. }) {
                refuse("from", "FROM must name a source: subqueries and table functions are not supported");
            }
        }
        [] => refuse("select", "FROM is missing: a view reads a source"),
        _ => refuse("from", "a view reads one source: a cross join cannot be kept by merging states"),
    }
    let has_modifiers = match group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(_, modifiers) => !modifiers.is_empty(),
    };
    if has_modifiers {
        refuse("group", "GROUP BY ALL, ROLLUP, CUBE and TOTALS are not supported: name the columns");
    }
    if qualify.is_some() || !named_window.is_empty() {
        refuse("window", "window functions are not supported: a row's value depends on events that are yet to come");
    }
    if !lateral_views.is_empty() {
        refuse("lateral", "LATERAL VIEW is not supported");
    }
}

fn settle_function(statement: &Statement, function: &mut Function, problems: &mut Vec<Problem>) {
    let name = function.name.to_string().to_lowercase();
    let mut refuse = |message: String| problems.push(statement.problem_near(&name, message));
    if function.over.is_some() {
        refuse(format!("`{name}(…) OVER` is a window function: its value depends on events that are yet to come"));
        return;
    }
    match name.as_str() {
        "any_value" => {
            refuse(
                "`any_value` may give any value, so two layers cannot agree: use first_value with ORDER BY".to_owned(),
            );
        }
        "nth_value" => {
            refuse("`nth_value` needs all its input in order at once: use array_agg(… ORDER BY …)[n]".to_owned());
        }
        _ => {}
    }
    let FunctionArguments::List(list) = &mut function.args else { return };
    let order = list.clauses.iter_mut().find_map(|clause| match clause {
        FunctionArgumentClause::OrderBy(order) => Some(order),
        _ => None,
    });
    if !ORDER_DEPENDENT.contains(&name.as_str()) {
        if order.is_some() {
            refuse(format!("ORDER BY means nothing inside `{name}`"));
        }
        return;
    }
    let additions = if list.duplicate_treatment == Some(DuplicateTreatment::Distinct) {
        match list.args.first() {
            Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(value))) if order.is_none() => {
                vec![ascending(value.clone())]
            }
            _ => Vec::new(),
        }
    } else {
        ["_partition", "_offset"].map(|column| ascending(Expr::Identifier(Ident::new(column)))).to_vec()
    };
    match order {
        // A place that is named already must not be named twice: DataFusion has no order for that.
        Some(order) => {
            let new = additions.into_iter().filter(|addition| order.iter().all(|named| named.expr != addition.expr));
            order.extend(new.collect::<Vec<_>>());
        }
        None if additions.is_empty() => {}
        None => list.clauses.insert(0, FunctionArgumentClause::OrderBy(additions)),
    }
}

fn ascending(expr: Expr) -> OrderByExpr {
    OrderByExpr { expr, options: OrderByOptions::default(), with_fill: None }
}
