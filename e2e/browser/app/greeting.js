export const greeting = 'before';
