import './style.css';
import { greeting } from './greeting.js';

const show = (text) => { document.querySelector('h1').textContent = text; };
show(greeting);

// This number is drawn once per load: it tells a hot update from a reload.
document.querySelector('#visit').textContent = Math.random();

import.meta.hot.accept('./greeting.js', (next) => show(next.greeting));
