ALTER TABLE workers DROP COLUMN applied_generation, DROP COLUMN applied_at;
ALTER TABLE payments DROP COLUMN record;
DROP TABLE refusals, audit_log, simulations, exchange_rates, rule_proposals, rule_ranges,
    limit_policies, commission_plans, rule_generations;
