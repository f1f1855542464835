//! `CREATE MATERIALIZED VIEW`: from a settled `SELECT` to a [`View`].
//!
//! DataFusion plans the statement; the plan must be `Projection(Filter(Aggregate(Filter(TableScan))))`, both filters being
//! optional. Its expressions become physical expressions over three shapes: the *input* (the columns it reads), the
//! *groups and values* an aggregation gives, and nothing in between.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column as ColumnRef, DFSchema, TableReference};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Aggregate as AggregatePlan, Expr, LogicalPlan, Volatility, lit};
use datafusion::optimizer::simplify_expressions::{ExprSimplifier, SimplifyExpressions};
use datafusion::optimizer::{Optimizer, OptimizerContext};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::execution_props::ExecutionProps;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::scalar::ScalarValue;
use datafusion::sql::planner::SqlToRel;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use sha2::{Digest, Sha256};

use super::catalog::Catalog;
use super::options::OptionReader;
use super::select;
use super::statement::Statement;
use crate::error::Problem;
use crate::source::Source;
use crate::stored::{FORMAT, can_be_group};
use crate::view::{Aggregate, Column, Exactness, Fingerprint, TimeColumn, View};

const OPTIONS: &str = "key, retention, freshness_slo";

/// The name of the group column of a view without `GROUP BY`: one group for everything.
const EVERYTHING: &str = "_everything";

pub(super) fn compile(statement: &Statement, catalog: &Catalog, problems: &mut Vec<Problem>) -> Option<View> {
    let found = problems.len();
    let mut options = OptionReader::new(statement);
    let key = options.text("key");
    let retention = options.duration("retention");
    let freshness_slo = options.duration("freshness_slo");
    problems.extend(options.finish(OPTIONS));

    let mut query = statement.query.clone()?;
    select::settle(statement, &mut query, problems);
    if problems.len() > found {
        return None;
    }
    let oracle_sql = query.to_string();
    let planned = plan(catalog, query)
        .map_err(|error| planning_problem(statement, &error))
        .and_then(|plan| Shape::of(statement, plan))
        .and_then(|shape| {
            refuse_unstable(statement, &shape)?;
            Ok(shape)
        });
    let compiled = planned.and_then(|shape| {
        let key = key.as_ref().map(|option| (option.value.as_str(), option.line));
        Compiler::new(statement, catalog, shape, key)?.view(oracle_sql)
    });
    match compiled {
        Ok(view) => Some(View { retention, freshness_slo, ..view }),
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

fn plan(catalog: &Catalog, query: datafusion::sql::sqlparser::ast::Query) -> Result<LogicalPlan, DataFusionError> {
    let options = datafusion::sql::planner::ParserOptions::from(&catalog.state.config_options().sql_parser);
    let planner = SqlToRel::new_with_options(catalog, options);
    let plan = planner.sql_statement_to_plan(SqlStatement::Query(Box::new(query)))?;
    catalog.state.analyzer().execute_and_check(plan, catalog.state.config_options(), |_, _| {})
}

/// Folds constants, now that no expression depends on the time it is evaluated at.
fn simplify(plan: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    let simplifier = Optimizer::with_rules(vec![Arc::new(SimplifyExpressions::new())]);
    simplifier.optimize(plan, &OptimizerContext::new().with_skip_failing_rules(false), |_, _| {})
}

fn planning_problem(statement: &Statement, error: &DataFusionError) -> Problem {
    let line = error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| span.start.line);
    let message = error.strip_backtrace();
    let message = ["Error during planning: ", "Schema error: ", "SQL error: "]
        .iter()
        .fold(message.as_str(), |message, prefix| message.trim_start_matches(prefix));
    if let Some((call, message)) = no_such_function(message) {
        return statement.problem_near(call, message);
    }
    // One problem is one line.
    let message = message.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    statement.problem_at(line.and_then(|line| usize::try_from(line).ok()).unwrap_or(statement.line), message)
}

/// DataFusion tells what each candidate wants, one after the other, and may call that a bug of its own: only what was asked for and what
/// there is helps. Returns the function's name and the message.
fn no_such_function(message: &str) -> Option<(&str, String)> {
    let (before, rest) = message.split_once("No function matches the given name and argument types '")?;
    let (call, rest) = rest.split_once('\'')?;
    let (_, candidates) = rest.split_once("Candidate functions:")?;
    let candidates: Vec<&str> = candidates.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let reason = match before.trim() {
        internal if internal.starts_with("Internal error") => String::new(),
        reason => format!(": {}", reason.trim_end_matches('.')),
    };
    let name = call.split('(').next().unwrap_or(call);
    Some((name, format!("there is no {call}{reason}; there is {}", candidates.join(", "))))
}

/// The parts of a planned `SELECT`.
struct Shape {
    outputs: Vec<Expr>,
    having: Option<Expr>,
    aggregate: AggregatePlan,
    filter: Option<Expr>,
    /// How columns of the source are qualified: its name, or the alias given in FROM.
    qualifier: TableReference,
    source: String,
}

impl Shape {
    fn of(statement: &Statement, plan: LogicalPlan) -> Result<Self, Problem> {
        let LogicalPlan::Projection(projection) = plan else {
            return Err(statement.problem("a view must be an aggregation: SELECT … FROM source GROUP BY …"));
        };
        let outputs = projection.expr.clone();
        let (having, plan) = match projection.input.as_ref() {
            LogicalPlan::Filter(filter) => (Some(filter.predicate.clone()), filter.input.as_ref()),
            other => (None, other),
        };
        let LogicalPlan::Aggregate(aggregate) = plan else {
            let reason = "a view must be an aggregation: it has neither GROUP BY nor an aggregate such as count(*)";
            return Err(statement.problem_near("select", reason));
        };
        let (filter, mut plan) = match aggregate.input.as_ref() {
            LogicalPlan::Filter(filter) => (Some(filter.predicate.clone()), filter.input.as_ref()),
            other => (None, other),
        };
        let mut alias = None;
        if let LogicalPlan::SubqueryAlias(aliased) = plan {
            alias = Some(aliased.alias.clone());
            plan = aliased.input.as_ref();
        }
        let LogicalPlan::TableScan(scan) = plan else {
            let kind = plan.display().to_string();
            return Err(statement.problem_near("select", format!("not supported in a view: {kind}")));
        };
        let source = scan.table_name.table().to_owned();
        let qualifier = alias.unwrap_or_else(|| scan.table_name.clone());
        Ok(Self { outputs, having, aggregate: aggregate.clone(), filter, qualifier, source })
    }

    fn expressions(&self) -> impl Iterator<Item = &Expr> {
        let aggregate = self.aggregate.group_expr.iter().chain(&self.aggregate.aggr_expr);
        self.outputs.iter().chain(&self.having).chain(aggregate).chain(&self.filter)
    }
}

/// Refuses what gives another value when it is evaluated again: two layers could not agree.
fn refuse_unstable(statement: &Statement, shape: &Shape) -> Result<(), Problem> {
    for expression in shape.expressions() {
        let mut unstable = None;
        let visited = expression.apply(|expression| {
            if let Expr::ScalarFunction(call) = expression {
                let depends_on_the_clock =
                    call.func.signature().volatility == Volatility::Stable && call.args.is_empty();
                if call.func.signature().volatility == Volatility::Volatile || depends_on_the_clock {
                    unstable = Some(call.func.name().to_owned());
                    return Ok(TreeNodeRecursion::Stop);
                }
            }
            Ok(TreeNodeRecursion::Continue)
        });
        if let (Ok(_), Some(name)) = (visited, unstable) {
            let reason = format!(
                "`{name}()` gives another value each time it is evaluated, so the layers could not agree; use a field of \
                 the event or `_append_time`"
            );
            return Err(statement.problem_near(&name, reason));
        }
    }
    Ok(())
}

/// A group column on its way.
struct Group {
    expr: Expr,
    qualifier: Option<TableReference>,
    field: FieldRef,
    name: String,
}

struct Compiler<'c> {
    statement: &'c Statement,
    shape: Shape,
    source: Arc<Source>,
    input_columns: Vec<usize>,
    input_schema: SchemaRef,
    input: DFSchema,
    groups: Vec<Group>,
    key_columns: usize,
    time: Option<TimeColumn>,
    properties: ExecutionProps,
    planning: PhysicalPlanningContext,
}

impl<'c> Compiler<'c> {
    fn new(
        statement: &'c Statement,
        catalog: &Catalog,
        shape: Shape,
        key: Option<(&str, usize)>,
    ) -> Result<Self, Problem> {
        let problem = |error: DataFusionError| planning_problem(statement, &error);
        let shape = simplified(shape, statement)?;
        let source = catalog.sources.iter().find(|source| *source.name == *shape.source).cloned();
        let source = source.ok_or_else(|| statement.problem(format!("there is no source `{}`", shape.source)))?;
        let input_columns = input_columns(&shape, &source);
        let input_schema = Arc::new(source.schema.project(&input_columns).map_err(|error| problem(error.into()))?);
        let input = DFSchema::try_from_qualified_schema(shape.qualifier.clone(), &input_schema).map_err(problem)?;
        let groups = groups(statement, &shape)?;
        let (groups, key_columns, time) = order_groups(statement, groups, key)?;
        Ok(Self {
            statement,
            shape,
            source,
            input_columns,
            input_schema,
            input,
            groups,
            key_columns,
            time,
            properties: ExecutionProps::new(),
            planning: PhysicalPlanningContext::default(),
        })
    }

    fn problem(&self, error: &DataFusionError) -> Problem {
        planning_problem(self.statement, error)
    }

    fn physical(&self, expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, Problem> {
        create_physical_expr(expr, schema, &self.properties, &self.planning).map_err(|error| self.problem(&error))
    }

    /// An expression over groups and aggregates, simplified: some functions (`coalesce`) can be evaluated in no other way.
    fn finalizing(&self, expr: &Expr, values: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, Problem> {
        let context = SimplifyContext::builder().with_schema(Arc::new(values.clone())).build();
        let simpler = ExprSimplifier::new(context).simplify(expr.clone()).map_err(|error| self.problem(&error))?;
        self.physical(&simpler, values)
    }

    fn view(self, oracle_sql: String) -> Result<View, Problem> {
        let filter = match &self.shape.filter {
            Some(filter) => Some(self.physical(filter, &self.input)?),
            None => None,
        };
        let mut group_expressions = Vec::new();
        let mut group_fields: Vec<Field> = Vec::new();
        for group in &self.groups {
            let expression = self.physical(&group.expr, &self.input)?;
            let data_type = expression.data_type(&self.input_schema).map_err(|error| self.problem(&error))?;
            if !can_be_group(&data_type) {
                let reason = format!("`{}` cannot be a group column: {data_type} has no order", group.name);
                return Err(self.statement.problem_near(&group.name, reason));
            }
            group_fields.push(Field::new(&group.name, data_type, true));
            group_expressions.push(expression);
        }
        let (aggregates, state_fields, value_fields) = self.aggregates()?;
        self.refuse_what_datafusion_cannot_plan(&aggregates)?;
        let columns_of = |more: &[Field]| -> SchemaRef {
            Arc::new(Schema::new(group_fields.iter().chain(more).cloned().collect::<Vec<_>>()))
        };
        let value_schema = columns_of(&value_fields);
        let values = self.values_schema(&value_schema)?;
        let having = match &self.shape.having {
            Some(having) => Some(self.finalizing(having, &values)?),
            None => None,
        };
        let (outputs, columns, group_outputs) = self.outputs(&values, &value_schema, &aggregates)?;
        let output_fields = columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), true));
        let state_schema = columns_of(&state_fields);
        let fingerprint = self.fingerprint(&oracle_sql, &state_schema)?;
        Ok(View {
            name: self.statement.name.as_str().into(),
            sql: self.statement.query_text.clone(),
            oracle_sql,
            statement: self.statement.text.clone(),
            defined_at: self.statement.place(),
            source: self.source.clone(),
            fingerprint,
            input_columns: self.input_columns.clone(),
            input_schema: self.input_schema.clone(),
            group_schema: columns_of(&[]),
            state_schema,
            key_columns: self.key_columns,
            time: self.time,
            output_schema: Arc::new(Schema::new(output_fields.collect::<Vec<_>>())),
            columns,
            group_outputs,
            retention: None,
            freshness_slo: None,
            of_everything: self.shape.aggregate.group_expr.is_empty(),
            filter,
            groups: group_expressions,
            aggregates,
            having,
            outputs,
            value_schema,
        })
    }

    /// The aggregates, their state columns and their value columns.
    #[expect(clippy::type_complexity, reason = "three lists of one loop")]
    fn aggregates(&self) -> Result<(Vec<Aggregate>, Vec<Field>, Vec<Field>), Problem> {
        let (mut aggregates, mut states, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (index, expr) in self.shape.aggregate.aggr_expr.iter().enumerate() {
            let builder =
                LoweredAggregateBuilder::new(expr, &self.input, &self.input_schema, &self.properties, &self.planning);
            let lowered = builder.with_name(format!("a{index}")).build().map_err(|error| self.problem(&error))?;
            let function = lowered.aggregate;
            let fields = function.state_fields().map_err(|error| self.problem(&error))?;
            states.extend(fields.iter().map(|field| field.as_ref().clone().with_nullable(true)));
            values.push(Field::new(function.name(), function.field().data_type().clone(), true));
            let mut arguments = function.expressions();
            arguments.extend(function.order_bys().iter().map(|order| order.expr.clone()));
            let state_columns = fields.len();
            aggregates.push(Aggregate { function, arguments, filter: lowered.filter, state_columns });
        }
        Ok((aggregates, states, values))
    }

    /// DataFusion plans order inside aggregates as an order of its whole input. Our fold does not, but an answer must be
    /// provable by plain DataFusion, so what that refuses is refused here.
    fn refuse_what_datafusion_cannot_plan(&self, aggregates: &[Aggregate]) -> Result<(), Problem> {
        let functions = aggregates.iter().map(|aggregate| aggregate.function.clone()).collect();
        let filters = aggregates.iter().map(|aggregate| aggregate.filter.clone()).collect();
        let input = Arc::new(EmptyExec::new(self.input_schema.clone()));
        let groups = PhysicalGroupBy::new_single(Vec::new());
        let schema = self.input_schema.clone();
        AggregateExec::try_new(AggregateMode::Single, groups, functions, filters, input, schema)
            .map(|_| ())
            .map_err(|error| planning_problem(self.statement, &error))
    }

    /// What expressions over aggregates refer to: the aggregation's columns by their logical names, in our order.
    fn values_schema(&self, value_schema: &Schema) -> Result<DFSchema, Problem> {
        let logical = &self.shape.aggregate.schema;
        let first_aggregate = self.shape.aggregate.group_expr.len();
        let mut fields: Vec<(Option<TableReference>, FieldRef)> = Vec::new();
        for (group, field) in self.groups.iter().zip(value_schema.fields()) {
            let named = field.as_ref().clone().with_name(group.field.name());
            fields.push((group.qualifier.clone(), Arc::new(named)));
        }
        for (index, field) in value_schema.fields()[self.groups.len()..].iter().enumerate() {
            let (qualifier, logical) = logical.qualified_field(first_aggregate + index);
            fields.push((qualifier.cloned(), Arc::new(field.as_ref().clone().with_name(logical.name()))));
        }
        DFSchema::new_with_metadata(fields, HashMap::new()).map_err(|error| self.problem(&error))
    }

    #[expect(clippy::type_complexity, reason = "three lists of one loop")]
    fn outputs(
        &self,
        values: &DFSchema,
        value_schema: &Schema,
        aggregates: &[Aggregate],
    ) -> Result<(Vec<Arc<dyn PhysicalExpr>>, Vec<Column>, Vec<Option<usize>>), Problem> {
        let (mut outputs, mut columns) = (Vec::new(), Vec::new());
        let mut group_outputs = vec![None; self.groups.len()];
        for expr in &self.shape.outputs {
            let physical = self.finalizing(expr, values)?;
            let name = output_name(expr);
            if columns.iter().any(|column: &Column| column.name == name) {
                return Err(self
                    .statement
                    .problem_near(&name, format!("two columns are named `{name}`: give one an alias")));
            }
            let data_type = physical.data_type(value_schema).map_err(|error| self.problem(&error))?;
            let mut exactness = Exactness::Exact;
            for column in expr.column_refs() {
                let index = values.index_of_column(column).map_err(|error| self.problem(&error))?;
                match index.checked_sub(self.groups.len()) {
                    Some(aggregate) => exactness = worse(exactness, exactness_of(&aggregates[aggregate])),
                    None if is_plain(expr) => group_outputs[index] = Some(columns.len()),
                    None => {}
                }
            }
            outputs.push(physical);
            columns.push(Column { name, data_type, exactness });
        }
        Ok((outputs, columns, group_outputs))
    }

    /// Names everything that decides what stored states mean.
    fn fingerprint(&self, oracle_sql: &str, state_schema: &Schema) -> Result<Fingerprint, Problem> {
        let event_columns = self.source.event_columns();
        let read = self.input_schema.fields().iter().zip(&self.input_columns);
        let fields: Vec<&str> =
            read.filter(|(_, index)| **index < event_columns).map(|(field, _)| field.name().as_str()).collect();
        let reader = crate::avro::reader_schema(&self.source.avro, &fields)
            .map_err(|error| self.statement.problem(format!("schema of `{}`: {error}", self.source.name)))?;
        let mut hash = Sha256::new();
        let dedupe = format!("{:?} {:?}", self.source.event_id, self.source.dedupe_window);
        let segments = self.source.segment_records.to_string();
        let keys = self.key_columns.to_string();
        let groups: Vec<&str> = self.groups.iter().map(|group| group.name.as_str()).collect();
        let states = format!("{state_schema:?}");
        let groups = groups.join(",");
        let parts =
            [FORMAT, &self.source.name, &reader, &dedupe, &segments, oracle_sql, &keys, &groups, states.as_str()];
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digits: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Fingerprint(digits))
    }
}

fn simplified(shape: Shape, statement: &Statement) -> Result<Shape, Problem> {
    let Shape { outputs, having, aggregate, filter, qualifier, source } = shape;
    let aggregate = match simplify(LogicalPlan::Aggregate(aggregate)) {
        Ok(LogicalPlan::Aggregate(aggregate)) => aggregate,
        Ok(other) => return Err(statement.problem(format!("not supported in a view: {}", other.display()))),
        Err(error) => return Err(planning_problem(statement, &error)),
    };
    // The simplifier may have folded the filter: `WHERE true` is gone, and so on.
    let filter = match aggregate.input.as_ref() {
        LogicalPlan::Filter(simpler) => Some(simpler.predicate.clone()),
        LogicalPlan::EmptyRelation(_) => filter,
        _ => None,
    };
    Ok(Shape { outputs, having, aggregate, filter, qualifier, source })
}

fn input_columns(shape: &Shape, source: &Source) -> Vec<usize> {
    let aggregate = shape.aggregate.group_expr.iter().chain(&shape.aggregate.aggr_expr);
    let read: BTreeSet<&ColumnRef> = aggregate.chain(&shape.filter).flat_map(Expr::column_refs).collect();
    let indices: BTreeSet<usize> = read.iter().filter_map(|column| source.schema.index_of(&column.name).ok()).collect();
    indices.into_iter().collect()
}

fn groups(statement: &Statement, shape: &Shape) -> Result<Vec<Group>, Problem> {
    let mut groups = Vec::new();
    for (index, expr) in shape.aggregate.group_expr.iter().enumerate() {
        if matches!(expr, Expr::GroupingSet(_)) {
            return Err(statement.problem_near("group", "GROUPING SETS, ROLLUP and CUBE are not supported"));
        }
        let (qualifier, field) = shape.aggregate.schema.qualified_field(index);
        let shown = shape.outputs.iter().find(|output| {
            matches!((*output).clone().unalias_nested().data,
                Expr::Column(column) if column.name == *field.name() && column.relation.as_ref() == qualifier)
        });
        let name = shown.map_or_else(|| field.name().clone(), output_name);
        groups.push(Group {
            expr: expr.clone().unalias_nested().data,
            qualifier: qualifier.cloned(),
            field: field.clone(),
            name,
        });
    }
    if groups.is_empty() {
        let field = Arc::new(Field::new(EVERYTHING, DataType::Int8, true));
        let expr = lit(ScalarValue::Int8(Some(0)));
        groups.push(Group { expr, qualifier: None, field, name: EVERYTHING.to_owned() });
    }
    Ok(groups)
}

/// Puts key columns first, then the time column, then the others.
fn order_groups(
    statement: &Statement,
    mut groups: Vec<Group>,
    key: Option<(&str, usize)>,
) -> Result<(Vec<Group>, usize, Option<TimeColumn>), Problem> {
    let times: Vec<(String, Option<i64>)> =
        groups.iter().filter_map(|group| tile_width(&group.expr).map(|width| (group.name.clone(), width))).collect();
    if let [_, (second, _), ..] = times.as_slice() {
        let reason = format!("`{second}` is a second time column; a view has at most one (date_bin or date_trunc)");
        return Err(statement.problem_near(second, reason));
    }
    let is_time = |group: &Group| times.iter().any(|(name, _)| *name == group.name);
    let mut ordered = Vec::new();
    match key {
        Some((names, line)) => {
            for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                let Some(at) = groups.iter().position(|group| group.name == name) else {
                    let known: Vec<&str> = groups.iter().chain(&ordered).map(|group| group.name.as_str()).collect();
                    let known = known.join(", ");
                    let reason =
                        format!("option `key`: `{name}` is not a group column (or named twice); there are {known}");
                    return Err(statement.problem_at(line, reason));
                };
                ordered.push(groups.remove(at));
            }
        }
        None => {
            let (times, others) = groups.into_iter().partition(|group| is_time(group) || group.name == EVERYTHING);
            ordered = others;
            groups = times;
        }
    }
    let key_columns = ordered.len();
    let (time, others): (Vec<Group>, Vec<Group>) = groups.into_iter().partition(is_time);
    ordered.extend(time);
    ordered.extend(others);
    let time = times.first().and_then(|(name, width_us)| {
        let index = ordered.iter().position(|group| group.name == *name)?;
        Some(TimeColumn { index, width_us: *width_us })
    });
    Ok((ordered, key_columns, time))
}

/// Whether an expression makes tiles, and how wide they are: `Some(None)` for tiles of varying or unaligned width.
fn tile_width(expr: &Expr) -> Option<Option<i64>> {
    const SECOND: i64 = 1_000_000;
    let expr = match expr {
        Expr::Cast(cast) => cast.expr.as_ref(),
        other => other,
    };
    let Expr::ScalarFunction(call) = expr else { return None };
    match (call.func.name(), call.args.as_slice()) {
        ("date_bin", [Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(width)), _), _]) => Some(
            (width.months == 0)
                .then(|| i64::from(width.days) * 86_400 * SECOND + width.nanoseconds / 1_000)
                .filter(|micros| *micros > 0),
        ),
        ("date_bin", _) => Some(None),
        ("date_trunc", [Expr::Literal(unit, _), _]) => {
            let unit = unit.try_as_str().flatten().unwrap_or_default().to_lowercase();
            Some(match unit.as_str() {
                "millisecond" => Some(1_000),
                "second" => Some(SECOND),
                "minute" => Some(60 * SECOND),
                "hour" => Some(3_600 * SECOND),
                "day" => Some(86_400 * SECOND),
                _ => None,
            })
        }
        ("date_trunc", _) => Some(None),
        _ => None,
    }
}

fn output_name(expr: &Expr) -> String {
    match expr {
        Expr::Alias(alias) => alias.name.clone(),
        Expr::Column(column) => column.name.clone(),
        other => other.schema_name().to_string(),
    }
}

/// Whether an output shows a column as it is.
fn is_plain(expr: &Expr) -> bool {
    matches!(expr.clone().unalias_nested().data, Expr::Column(_))
}

fn worse(one: Exactness, other: Exactness) -> Exactness {
    let rank = |exactness| match exactness {
        Exactness::Exact => 0,
        Exactness::Float => 1,
        Exactness::Sketch => 2,
    };
    if rank(one) >= rank(other) { one } else { other }
}

/// A label for people: which class a column is in. Nothing is computed differently by it.
fn exactness_of(aggregate: &Aggregate) -> Exactness {
    let name = aggregate.function.fun().name();
    if name.starts_with("approx_percentile") || name == "approx_median" {
        return Exactness::Sketch;
    }
    // Their states hold floats as they came, never sums of them.
    const KEEPS_VALUES: [&str; 9] =
        ["min", "max", "median", "first_value", "last_value", "array_agg", "string_agg", "percentile_cont", "count"];
    let has_float = |field: &FieldRef| field.data_type().is_floating();
    let sums_floats = aggregate.function.state_fields().is_ok_and(|fields| fields.iter().any(has_float));
    let is_distinct = aggregate.function.is_distinct();
    let returns_float = aggregate.function.field().data_type().is_floating();
    if !KEEPS_VALUES.contains(&name) && (sums_floats || (is_distinct && returns_float)) {
        Exactness::Float
    } else {
        Exactness::Exact
    }
}
